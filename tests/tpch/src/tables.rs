//! How do the tables become files?

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use datafusion::arrow::record_batch::RecordBatchReader;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use tpchgen::generators as rows;
use tpchgen_arrow as arrow;

/// The names of the tables.
pub const TABLES: [&str; 8] = ["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"];

/// How much there is, and how it lies in files.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// 1 for about a gigabyte of text, of which Parquet makes a third.
    pub scale: f64,
    /// How many files a table has; nations and regions always have one.
    pub files: u32,
    /// How many rows a row group has at most.
    pub rows_per_group: usize,
}

/// Writes the tables below `cache`, unless that was done before, and gives the folder. Every table is a folder in it.
///
/// # Errors
/// A file cannot be written.
pub fn tables(cache: &Path, shape: Shape) -> Result<PathBuf> {
    let Shape { scale, files, rows_per_group } = shape;
    let name = format!("tpch-sf{scale}-{files}-{rows_per_group}");
    let folder = cache.join(&name);
    if folder.exists() {
        return Ok(folder);
    }
    // A name of this process: whoever is first makes the folder that everybody uses.
    let partial = cache.join(format!(".{name}.{}", std::process::id()));
    remove(&partial)?;
    for table in TABLES {
        let below = partial.join(table);
        fs::create_dir_all(&below).with_context(|| format!("make {}", below.display()))?;
        let parts = if matches!(table, "region" | "nation") { 1 } else { files };
        for part in 1..=parts {
            let file = below.join(format!("part-{part:04}.parquet"));
            write(&file, part_of(table, scale, i32::try_from(part)?, i32::try_from(parts)?), rows_per_group)
                .with_context(|| format!("write {}", file.display()))?;
        }
    }
    match fs::rename(&partial, &folder) {
        Err(_) if folder.exists() => remove(&partial)?,
        renamed => renamed.with_context(|| format!("make {}", folder.display()))?,
    }
    Ok(folder)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn part_of(table: &str, scale: f64, part: i32, parts: i32) -> Box<dyn RecordBatchReader> {
    match table {
        "region" => Box::new(arrow::RegionArrow::new(rows::RegionGenerator::new(scale, part, parts))),
        "nation" => Box::new(arrow::NationArrow::new(rows::NationGenerator::new(scale, part, parts))),
        "supplier" => Box::new(arrow::SupplierArrow::new(rows::SupplierGenerator::new(scale, part, parts))),
        "customer" => Box::new(arrow::CustomerArrow::new(rows::CustomerGenerator::new(scale, part, parts))),
        "part" => Box::new(arrow::PartArrow::new(rows::PartGenerator::new(scale, part, parts))),
        "partsupp" => Box::new(arrow::PartSuppArrow::new(rows::PartSuppGenerator::new(scale, part, parts))),
        "orders" => Box::new(arrow::OrderArrow::new(rows::OrderGenerator::new(scale, part, parts))),
        _ => Box::new(arrow::LineItemArrow::new(rows::LineItemGenerator::new(scale, part, parts))),
    }
}

fn write(path: &Path, batches: Box<dyn RecordBatchReader>, rows_per_group: usize) -> Result<()> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(rows_per_group))
        .build();
    let mut writer = ArrowWriter::try_new(File::create(path)?, batches.schema(), Some(properties))?;
    for batch in batches {
        writer.write(&batch?)?;
    }
    writer.close()?;
    Ok(())
}

/// Makes tables of a session of the folders in `folder`, each by its name.
///
/// # Errors
/// A folder holds no Parquet.
pub async fn register(session: &SessionContext, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let url = format!("{}/", path.display());
        session.register_parquet(name, url, ParquetReadOptions::default()).await?;
    }
    Ok(())
}
