//! What does a person call a stage?

use std::sync::Arc;

use datafusion::datasource::sink::DataSinkExec;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::HashJoinExec;

use crate::read::downcast;
use crate::route::gathers_left;
use crate::scan::{Content, content};

/// A name has at most so many words; what was left out is said.
const WORDS: usize = 6;

/// What a stage does, from its sources upwards: `scan orders, filter, aggregate`.
pub(crate) fn stage(plan: &Arc<dyn ExecutionPlan>) -> String {
    let mut words = Vec::new();
    collect(plan, &mut words);
    words.dedup();
    match words.len() {
        0 => "read a shuffle".to_owned(),
        1..=WORDS => words.join(", "),
        _ => format!("{}, …, {}", words[..WORDS - 1].join(", "), words[words.len() - 1]),
    }
}

fn collect(plan: &Arc<dyn ExecutionPlan>, words: &mut Vec<String>) {
    plan.children().into_iter().for_each(|child| collect(child, words));
    if let Some(word) = word(plan) {
        words.push(word);
    }
}

fn word(plan: &Arc<dyn ExecutionPlan>) -> Option<String> {
    match content(plan) {
        Some(Content::Files(files)) => {
            let path = files.file_groups.iter().flat_map(|group| group.iter()).next()?.object_meta.location.to_string();
            return Some(format!("scan {}", table(&path)));
        }
        Some(Content::Rows(_)) => return Some("rows".to_owned()),
        None => {}
    }
    if downcast::<HashJoinExec>(plan).is_some() {
        return Some(if gathers_left(plan) { "broadcast join" } else { "hash join" }.to_owned());
    }
    if downcast::<DataSinkExec>(plan).is_some() {
        return Some("write".to_owned());
    }
    let name = match plan.name() {
        "ShuffleReadExec" | "ProjectionExec" | "CooperativeExec" | "EmptyExec" | "PlaceholderRowExec" => return None,
        "AggregateExec" => "aggregate",
        "SortMergeJoinExec" => "merge join",
        "NestedLoopJoinExec" => "nested loop join",
        "CrossJoinExec" => "cross join",
        "BoundedWindowAggExec" | "WindowAggExec" => "window",
        "GlobalLimitExec" | "LocalLimitExec" => "limit",
        other => return Some(other.trim_end_matches("Exec").to_lowercase()),
    };
    Some(name.to_owned())
}

/// The table that a file belongs to, as far as its path tells: its name, or the folder of files with made-up names.
fn table(path: &str) -> &str {
    let mut parts = path.rsplit('/');
    let file = parts.next().unwrap_or(path);
    let stem = file.split('.').next().unwrap_or(file);
    if !stem.starts_with("part-") && !stem.is_empty() {
        return stem;
    }
    parts.find(|part| !part.contains('=')).unwrap_or(stem)
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn a_table_is_called_by_its_file_or_folder() {
        assert_eq!(table("data/lineitem.parquet"), "lineitem");
        assert_eq!(table("clean/month=2026-01/part-00000-x-1.parquet"), "clean");
        assert_eq!(table("part-0.csv"), "part-0");
    }
}
