//! How do raw CSV files become a clean table of Parquet?

use std::process::ExitCode;

use clap::Parser;
use vonk::WriteMode;

/// Reads orders and customers from CSV, drops what is broken, joins them, and writes Parquet with a folder for each month.
#[derive(Debug, Parser)]
struct Args {
    /// A file or folder of orders: id,host,day,amount
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/orders.csv"))]
    orders: String,
    /// A file or folder of customers: host,customer,country
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/customers.csv"))]
    customers: String,
    /// The folder for the table: a path or the URL of any store
    #[arg(long)]
    output: String,
    /// Replace the table that is there, instead of failing
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    vonk: vonk::Args,
}

const CLEAN: &str = "
    SELECT o.id, c.customer, c.country, o.day, o.amount, date_format(o.day, '%Y-%m') AS month
    FROM (
        SELECT id, host, try_cast(day AS date) AS day, try_cast(amount AS decimal(12, 2)) AS amount FROM orders
    ) AS o
    JOIN customers AS c ON o.host = c.host
    WHERE o.day IS NOT NULL AND o.amount > 0";

fn main() -> ExitCode {
    vonk::main(|| {
        let args = Args::parse();
        let ctx = vonk::Context::builder().name("parquet_etl").args(&args.vonk).build()?;
        ctx.block_on(async {
            let session = ctx.session()?;
            session.register_table("orders", ctx.read_csv(&args.orders).await?.into_view())?;
            session.register_table("customers", ctx.read_csv(&args.customers).await?.into_view())?;

            let read = ctx.table("orders").await?.count().await?;
            let clean = ctx.sql(CLEAN).await?;
            let mode = if args.overwrite { WriteMode::Overwrite } else { WriteMode::ErrorIfExists };
            let written = ctx.write(clean).mode(mode).partition_by(["month"]).parquet(&args.output).await?;
            println!("{written} of {read} orders are in {}", args.output);

            let months =
                "SELECT month, count(*) AS orders, sum(amount) AS amount FROM clean GROUP BY month ORDER BY month";
            session.register_table("clean", ctx.read_parquet(&args.output).await?.into_view())?;
            println!("{}", ctx.sql(months).await?.to_string().await?);
            Ok(())
        })?
    })
}
