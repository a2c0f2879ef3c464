//! What does the log of a web server say about its customers?

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Parser;
use serde::{Deserialize, Serialize};
use vonk::{Str, task};

/// Analyses the log of a web server: failures by path, traffic by customer and country.
///
/// Shows a join, a broadcast variable and accumulators.
#[derive(Debug, Parser)]
struct Args {
    /// Log files in the common log format
    #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/access.log"))]
    log: String,
    /// A file of lines `HOST,CUSTOMER,COUNTRY` below a line of titles
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/customers.csv"))]
    customers: String,
    /// How many lines of each table are printed
    #[arg(long, default_value_t = 5)]
    top: usize,
    #[command(flatten)]
    vonk: vonk::Args,
}

/// A line of the log.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Request {
    host: Str,
    path: Str,
    status: u16,
    bytes: u64,
}

fn main() -> ExitCode {
    vonk::main(|| {
        let args = Args::parse();
        let ctx = vonk::Context::builder().name("log_analysis").args(&args.vonk).build()?;

        let damaged = ctx.accumulator(0_u64);
        let requests = ctx.text_file(&args.log)?.flat_map(task!(move [&damaged] |line: Str| {
            let request = parse(&line);
            if request.is_none() {
                damaged.add(1);
            }
            request
        }));

        // How many requests failed, of how many, by path: one pass, combined before anything is sent.
        let by_path = requests
            .map(|request| (request.path, (u64::from(request.status >= 500), 1_u64)))
            .reduce_by_key(|(a, n), (b, m)| (a + b, n + m));
        println!("failed\tof\tpath");
        for (path, (failed, all)) in by_path.top_by(args.top, |(_, (failed, _))| *failed)? {
            println!("{failed}\t{all}\t{path}");
        }
        println!("{} lines are no requests", damaged.value());

        // Traffic by customer: a join of two datasets by host.
        let customers = ctx.text_file(&args.customers)?.zip_with_index()?.flat_map(|(line, number)| {
            let mut fields = line.split(',');
            // Line 0 has the titles.
            (number > 0).then(|| Some((fields.next()?, (fields.next()?, fields.next()?)))).flatten()
        });
        let traffic = requests.map(|request| (request.host, request.bytes)).reduce_by_key(|a, b| a + b);
        let by_customer =
            traffic.join(&customers).map(|(_, (bytes, (customer, _)))| (customer, bytes)).reduce_by_key(|a, b| a + b);
        println!("\nbytes\tcustomer");
        for (customer, bytes) in by_customer.top_by(args.top, |(_, bytes)| *bytes)? {
            println!("{bytes}\t{customer}");
        }

        // Traffic by country: the customers are few, so every executor gets all of them and nothing is joined.
        let countries: BTreeMap<Str, Str> =
            customers.map(|(host, (_, country))| (host, country)).collect()?.into_iter().collect();
        let countries = ctx.broadcast(countries);
        let by_country = traffic
            .map(task!(move [&countries] |(host, bytes): (Str, u64)| {
                (countries.value().get(&host).cloned().unwrap_or_else(|| Str::from("unknown")), bytes)
            }))
            .reduce_by_key(|a, b| a + b);
        println!("\nbytes\tcountry");
        for (country, bytes) in by_country.top_by(args.top, |(_, bytes)| *bytes)? {
            println!("{bytes}\t{country}");
        }
        Ok(())
    })
}

/// `HOST - - [TIME] "METHOD PATH VERSION" STATUS BYTES`
fn parse(line: &Str) -> Option<Request> {
    let mut quoted = line.split('"');
    let (head, request, tail) = (quoted.next()?, quoted.next()?, quoted.next()?);
    let mut tail = tail.split_whitespace();
    Some(Request {
        host: head.split_whitespace().next()?,
        path: request.split_whitespace().nth(1)?,
        status: tail.next()?.parse().ok()?,
        bytes: tail.next()?.parse().ok()?,
    })
}
