//! Which plane divides points of two kinds?

use std::process::ExitCode;

use clap::Parser;
use vonk::{StorageLevel, task};

/// Learns weights of a logistic regression by gradient descent.
#[derive(Debug, Parser)]
struct Args {
    /// A file of lines `LABEL X1 X2 …`, the label 0 or 1
    #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/labelled.txt"))]
    points: String,
    /// How many steps are taken
    #[arg(long, default_value_t = 50)]
    iterations: u32,
    /// How long a step is
    #[arg(long, default_value_t = 1.0)]
    step: f64,
    #[command(flatten)]
    vonk: vonk::Args,
}

/// A label, 1 or 0, and the coordinates behind a constant 1.
type Labelled = (f64, Vec<f64>);

fn main() -> ExitCode {
    vonk::main(|| {
        let args = Args::parse();
        let ctx = vonk::Context::builder().name("logistic_regression").args(&args.vonk).build()?;
        let points = ctx.text_file(&args.points)?.flat_map(|line| parse(&line)).persist(StorageLevel::Memory);
        let count = points.count()? as f64;
        let dimensions = points.first()?.map_or(0, |(_, x)| x.len());

        let mut weights = vec![0.0; dimensions];
        for _ in 0..args.iterations {
            let current = ctx.broadcast(weights.clone());
            let gradient = points
                .map(task!(move [&current] |(label, x): Labelled| {
                    let error = probability(current.value(), &x) - label;
                    x.into_iter().map(|x| x * error).collect::<Vec<f64>>()
                }))
                .tree_reduce(add, 2)?
                .unwrap_or_default();
            weights.iter_mut().zip(gradient).for_each(|(weight, slope)| *weight -= args.step * slope / count);
        }

        let learned = ctx.broadcast(weights.clone());
        let right = points
            .filter(task!(move [&learned] |(label, x): &Labelled| {
                (probability(learned.value(), x) > 0.5) == (*label > 0.5)
            }))
            .count()? as f64;
        println!("weights {}", weights.iter().map(|w| format!("{w:.3}")).collect::<Vec<_>>().join(" "));
        println!("{:.1} % of {count} points on the right side", 100.0 * right / count);
        Ok(())
    })
}

fn parse(line: &str) -> Option<Labelled> {
    let mut numbers = line.split_whitespace().map(str::parse::<f64>);
    let label = numbers.next()?.ok()?;
    let coordinates = std::iter::once(Ok(1.0)).chain(numbers).collect::<Result<_, _>>().ok()?;
    Some((label, coordinates))
}

/// How likely it is that the label is 1.
fn probability(weights: &[f64], x: &[f64]) -> f64 {
    let margin: f64 = weights.iter().zip(x).map(|(w, x)| w * x).sum();
    1.0 / (1.0 + (-margin).exp())
}

fn add(mut a: Vec<f64>, b: Vec<f64>) -> Vec<f64> {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    a
}
