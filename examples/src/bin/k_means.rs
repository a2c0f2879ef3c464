//! Around which centres do points lie?

use std::process::ExitCode;

use anyhow::ensure;
use clap::Parser;
use vonk::{StorageLevel, task};

/// Finds centres of points by Lloyd's algorithm.
#[derive(Debug, Parser)]
struct Args {
    /// A file of points: numbers between spaces, a point per line
    #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/points.txt"))]
    points: String,
    /// How many centres are sought
    #[arg(short, long, default_value_t = 4)]
    k: usize,
    /// Centres that move less than this, all together, have been found
    #[arg(long, default_value_t = 1e-4)]
    tolerance: f64,
    /// How often centres move at most
    #[arg(long, default_value_t = 100)]
    max_iterations: u32,
    /// Which points the search begins with
    #[arg(long, default_value_t = 7)]
    seed: u64,
    #[command(flatten)]
    vonk: vonk::Args,
}

type Point = Vec<f64>;

fn main() -> ExitCode {
    vonk::main(|| {
        let args = Args::parse();
        let ctx = vonk::Context::builder().name("k_means").args(&args.vonk).build()?;
        let points = ctx
            .text_file(&args.points)?
            .map(|line| -> Point { line.split_whitespace().filter_map(|number| number.parse().ok()).collect() })
            .filter(|point| !point.is_empty())
            .persist(StorageLevel::Memory);

        let mut centres = first_centres(&points.take_sample(false, 16 * args.k, args.seed)?, args.k);
        ensure!(centres.len() == args.k, "{} points cannot have {} centres", centres.len(), args.k);
        let mut moved = f64::INFINITY;
        let mut iterations = 0;
        while moved > args.tolerance && iterations < args.max_iterations {
            let nearest = ctx.broadcast(centres.clone());
            let sums = points
                .map(task!(move [&nearest] |point: Point| (closest(nearest.value(), &point), (point, 1_u64))))
                .reduce_by_key(|(a, n), (b, m)| (add(a, &b), n + m))
                .collect_as_map()?;
            moved = 0.0;
            for (index, (sum, count)) in sums {
                let centre: Point = sum.iter().map(|x| x / count as f64).collect();
                moved += distance(&centres[index], &centre);
                centres[index] = centre;
            }
            iterations += 1;
        }
        centres.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        for centre in &centres {
            println!("{}", centre.iter().map(|x| format!("{x:.3}")).collect::<Vec<_>>().join(" "));
        }
        eprintln!("{iterations} iterations");
        Ok(())
    })
}

/// Points far from each other: each is the one farthest from those before it.
fn first_centres(sample: &[Point], k: usize) -> Vec<Point> {
    let mut centres: Vec<Point> = sample.first().cloned().into_iter().collect();
    while centres.len() < k.min(sample.len()) {
        let lonely =
            |point: &&Point| centres.iter().map(|centre| distance(centre, point)).fold(f64::INFINITY, f64::min);
        let farthest = sample.iter().max_by(|a, b| lonely(a).total_cmp(&lonely(b))).cloned();
        centres.extend(farthest);
    }
    centres
}

fn closest(centres: &[Point], point: &[f64]) -> usize {
    let by_distance = |a: &usize, b: &usize| distance(&centres[*a], point).total_cmp(&distance(&centres[*b], point));
    (0..centres.len()).min_by(by_distance).unwrap_or_default()
}

/// The square of the distance.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}

fn add(mut a: Point, b: &[f64]) -> Point {
    a.iter_mut().zip(b).for_each(|(x, y)| *x += y);
    a
}
