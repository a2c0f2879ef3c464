//! What do DataFrames and SQL look like, from values to an answer?

use std::process::ExitCode;

use clap::Parser;
use serde::{Deserialize, Serialize};
use vonk::datafusion::functions_aggregate::expr_fn::{count, sum};
use vonk::datafusion::prelude::{col, lit};

/// Walks through tables, views, SQL and DataFrames over a few values.
#[derive(Debug, Parser)]
struct Args {
    /// Leave out cities with fewer people
    #[arg(long, default_value_t = 100_000)]
    min_people: u64,
    #[command(flatten)]
    vonk: vonk::Args,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct City {
    name: String,
    country: String,
    people: u64,
}

#[derive(Debug, Deserialize)]
struct Country {
    country: String,
    cities: i64,
    people: u64,
}

fn main() -> ExitCode {
    vonk::main(|| {
        let args = Args::parse();
        let ctx = vonk::Context::builder().name("sql_tour").args(&args.vonk).build()?;
        let city = |name: &str, country: &str, people| City { name: name.into(), country: country.into(), people };
        let cities = ctx.dataframe_of(&[
            city("Antwerp", "Belgium", 536_000),
            city("Bruges", "Belgium", 119_000),
            city("Ghent", "Belgium", 270_000),
            city("Amsterdam", "Netherlands", 931_000),
            city("Middelburg", "Netherlands", 49_000),
            city("Utrecht", "Netherlands", 374_000),
        ])?;

        // A DataFrame becomes a table of the session, and SQL speaks of it.
        ctx.session()?.register_table("cities", cities.clone().into_view())?;
        let answer = ctx.block_on(async {
            let text =
                format!("SELECT name, people FROM cities WHERE people >= {} ORDER BY people DESC", args.min_people);
            println!("{}", ctx.sql(&text).await?.to_string().await?);

            // The same language without text: what is wrong with it is found by the compiler, or before it runs.
            let countries = cities
                .filter(col("people").gt_eq(lit(args.min_people)))?
                .aggregate(
                    vec![col("country")],
                    vec![count(lit(1)).alias("cities"), sum(col("people")).alias("people")],
                )?
                .sort(vec![col("people").sort(false, true)])?;
            ctx.collect_as::<Country>(countries).await
        })??;
        for Country { country, cities, people } in answer {
            println!("{country}: {people} people in {cities} cities");
        }
        Ok(())
    })
}
