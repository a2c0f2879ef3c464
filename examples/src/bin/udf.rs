//! How does a query call a function of the program's own?

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use vonk::datafusion::arrow::array::{AsArray, StringArray};
use vonk::datafusion::arrow::datatypes::DataType;
use vonk::datafusion::common::cast::as_string_array;
use vonk::datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};

/// Finds words that are anagrams of each other.
#[derive(Debug, Parser)]
struct Args {
    /// Words to look among
    #[arg(default_values = ["listen", "silent", "enlist", "google", "elbow", "below", "spark"])]
    words: Vec<String>,
    #[command(flatten)]
    vonk: vonk::Args,
}

/// `sorted_letters(word)`: the same for all anagrams. Executors call this function too, to have what it makes.
fn sorted_letters() -> ScalarUDF {
    let sort = |arguments: &[ColumnarValue]| {
        let words = ColumnarValue::values_to_arrays(arguments)?;
        let sorted: StringArray = as_string_array(&words[0])?
            .iter()
            .map(|word| {
                word.map(|word| {
                    let mut letters: Vec<char> = word.chars().collect();
                    letters.sort_unstable();
                    letters.into_iter().collect::<String>()
                })
            })
            .collect();
        Ok(ColumnarValue::Array(Arc::new(sorted)))
    };
    create_udf("sorted_letters", vec![DataType::Utf8], DataType::Utf8, Volatility::Immutable, Arc::new(sort))
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Word {
    word: String,
}

fn main() -> ExitCode {
    vonk::main(|| {
        let args = Args::parse();
        let ctx = vonk::Context::builder().name("udf").args(&args.vonk).build()?;
        ctx.register_udf(sorted_letters)?;
        let words: Vec<Word> = args.words.into_iter().map(|word| Word { word }).collect();
        ctx.session()?.register_table("words", ctx.dataframe_of(&words)?.into_view())?;
        let anagrams = ctx.block_on(async {
            let groups = "
                SELECT array_to_string(array_agg(word ORDER BY word), ' ') AS words
                FROM words GROUP BY sorted_letters(CAST(word AS varchar)) HAVING count(*) > 1 ORDER BY words";
            ctx.sql(groups).await?.collect().await
        })??;
        for batch in anagrams {
            for words in batch.column(0).as_string::<i32>().iter().flatten() {
                println!("{words}");
            }
        }
        Ok(())
    })
}
