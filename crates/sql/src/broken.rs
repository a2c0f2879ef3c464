//! What becomes of the rows of a CSV file that are broken?
//!
//! The fast reader of a CSV file stops at the first of them and does not say where it stands. [`Reader`] then reads the same
//! bytes again: it knows the line of every row, and either says what is wrong with the first broken one, or leaves broken rows
//! out, or puts nulls where they are broken. Whether text is a value of a column's type is asked of Arrow's own reader, so
//! that both agree about every row.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringBuilder};
use arrow::datatypes::SchemaRef;
use datafusion::arrow::csv;
use datafusion::common::config::CsvOptions;
use datafusion::common::{Result, internal_err};

/// What becomes of a broken row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BrokenRows {
    /// The query fails.
    #[default]
    Fail,
    /// It is left out.
    Drop,
    /// Columns that are missing or whose text is no value are null, surplus ones are left out.
    Permissive,
}

/// Where a broken row begins, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    /// The line's number, from 0, after the place where the reader began.
    pub(crate) line: u64,
    /// What is wrong, as half a sentence.
    pub(crate) what: String,
}

/// How many rows were broken, and the first of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) dropped: u64,
    pub(crate) mended: u64,
    pub(crate) first: Option<Broken>,
}

/// A row's place in the buffers of a [`Reader`].
struct Row {
    /// Its values in `ends`.
    values: Range<usize>,
    /// Where the text of its first value begins.
    text: usize,
    /// Its bytes as they are in the file.
    raw: Range<usize>,
    line: u64,
    wrong: Option<String>,
}

/// Reads CSV row by row.
pub(crate) struct Reader {
    parser: csv_core::Reader,
    /// Lines that begin with this byte are none.
    comment: Option<u8>,
    /// Ends a line.
    newline: u8,
    /// Fewer columns than the table has are right.
    truncated: bool,
    mode: BrokenRows,
    /// The columns of the file.
    columns: SchemaRef,
    /// Those that are looked at, and the one decoder for all of them.
    looked_at: Vec<usize>,
    decoder: csv::reader::Decoder,
    /// A decoder for each, to tell which is wrong.
    single: Vec<Option<csv::reader::Decoder>>,
    /// So many rows become a batch.
    batch_rows: usize,
    /// Rows not to be given: a header, and what was given already.
    skip: u64,
    /// Broken rows keep their bytes.
    keep_raw: bool,

    line: u64,
    text: Vec<u8>,
    ends: Vec<usize>,
    raw: Vec<u8>,
    rows: Vec<Row>,
    /// Of the row that is being read: where its text, its ends and its bytes begin.
    begun: (usize, usize, usize),
    used: (usize, usize),
    tally: Tally,
}

/// A batch, and the bytes of those of its rows that are broken.
pub(crate) struct Batch {
    /// The columns that were looked at.
    pub(crate) rows: RecordBatch,
    /// What each row is in the file, if it is broken and that was asked for.
    pub(crate) raw: ArrayRef,
}

/// What a [`Reader`] is made from.
pub(crate) struct Layout<'a> {
    pub(crate) options: &'a CsvOptions,
    /// Whether the first row is a header.
    pub(crate) header: bool,
    pub(crate) columns: SchemaRef,
    pub(crate) looked_at: Vec<usize>,
    pub(crate) mode: BrokenRows,
    /// Whether broken rows keep their bytes.
    pub(crate) keep_raw: bool,
    pub(crate) batch_rows: usize,
}

/// Room for so much more when a buffer is full.
const GROWTH: usize = 4 << 10;

impl Reader {
    /// Reads from the first byte, and passes over `skip` rows.
    pub(crate) fn new(layout: Layout<'_>, skip: u64) -> Self {
        let Layout { options, header, columns, looked_at, mode, keep_raw, batch_rows } = layout;
        let mut parser = csv_core::ReaderBuilder::new();
        parser.delimiter(options.delimiter).quote(options.quote).escape(options.escape).comment(options.comment);
        if let Some(terminator) = options.terminator {
            parser.terminator(csv_core::Terminator::Any(terminator));
        }
        let decoder = decoder(&columns, looked_at.clone(), batch_rows);
        let single = columns.fields().iter().map(|_| None).collect();
        Self {
            parser: parser.build(),
            comment: options.comment,
            newline: options.terminator.unwrap_or(b'\n'),
            truncated: options.truncated_rows.unwrap_or(false),
            mode,
            columns,
            looked_at,
            decoder,
            single,
            batch_rows,
            skip: skip + u64::from(header),
            keep_raw,
            line: 0,
            text: Vec::new(),
            ends: Vec::new(),
            raw: Vec::new(),
            rows: Vec::new(),
            begun: (0, 0, 0),
            used: (0, 0),
            tally: Tally::default(),
        }
    }

    /// How many rows were broken so far.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Reads bytes; none of them end the file. Gives how many were read, and a batch when one is complete.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<(usize, Option<Result<Batch, Broken>>)> {
        let mut at = 0;
        loop {
            let (text, ends) = self.used;
            if self.text.len() == text {
                self.text.resize(text + GROWTH, 0);
            }
            if self.ends.len() == ends {
                self.ends.resize(ends + GROWTH, 0);
            }
            let (result, read, wrote, ended) =
                self.parser.read_record(&bytes[at..], &mut self.text[text..], &mut self.ends[ends..]);
            self.raw.extend_from_slice(&bytes[at..at + read]);
            self.used = (text + wrote, ends + ended);
            at += read;
            match result {
                csv_core::ReadRecordResult::OutputFull | csv_core::ReadRecordResult::OutputEndsFull => {}
                csv_core::ReadRecordResult::InputEmpty => return Ok((at, None)),
                csv_core::ReadRecordResult::Record => {
                    self.end_row();
                    if self.rows.len() == self.batch_rows {
                        return Ok((at, self.batch()?));
                    }
                    // No bytes would mean that the file has ended.
                    if at == bytes.len() && !bytes.is_empty() {
                        return Ok((at, None));
                    }
                }
                csv_core::ReadRecordResult::End => return Ok((at, self.batch()?)),
            }
        }
    }

    /// What was read last is a row.
    fn end_row(&mut self) {
        let (text, ends, raw) = self.begun;
        let (before, raw) = self.own_bytes(raw..self.raw.len());
        let line = self.line + before;
        let inside = &self.raw[raw.start..];
        self.line = line + inside.iter().filter(|byte| **byte == self.newline).count() as u64;
        if self.skip > 0 {
            self.skip -= 1;
            self.used = (text, ends);
            self.raw.truncate(self.begun.2);
        } else {
            let row = Row { values: ends..self.used.1, text, raw, line, wrong: None };
            let wrong = self.misshapen(&row);
            self.rows.push(Row { wrong, ..row });
            if !self.keep_raw {
                self.raw.truncate(self.begun.2);
            }
        }
        self.begun = (self.used.0, self.used.1, self.raw.len());
    }

    /// What of these bytes is a row's, without empty lines and comments before it and its own end, and how many lines those
    /// are that go before it.
    fn own_bytes(&self, all: Range<usize>) -> (u64, Range<usize>) {
        let (mut start, mut end, mut lines) = (all.start, all.end, 0);
        while let Some(&byte) = self.raw[start..end].first() {
            if byte == self.newline {
                (start, lines) = (start + 1, lines + 1);
            } else if byte == b'\r' {
                start += 1;
            } else if Some(byte) == self.comment {
                let rest = &self.raw[start..end];
                start += rest.iter().position(|byte| *byte == self.newline).unwrap_or(rest.len());
            } else {
                break;
            }
        }
        while end > start && (self.raw[end - 1] == self.newline || self.raw[end - 1] == b'\r') {
            end -= 1;
        }
        (lines, start..end)
    }

    /// What is wrong with a row before its values are looked at.
    fn misshapen(&self, row: &Row) -> Option<String> {
        let (have, want) = (row.values.len(), self.columns.fields().len());
        if have > want || have < want && !self.truncated {
            let s = if have == 1 { "" } else { "s" };
            return Some(format!("it has {have} column{s}, not {want}"));
        }
        // The fast reader looks at all text, wanted or not.
        let wrong = (0..have).find(|column| std::str::from_utf8(self.value(row, *column)).is_err())?;
        Some(format!("column `{}` is not UTF-8", self.columns.field(wrong).name()))
    }

    /// The text of a value; none if the row has no such column.
    fn value(&self, row: &Row, column: usize) -> &[u8] {
        let Some(end) = self.ends[row.values.clone()].get(column) else { return &[] };
        let start = if column == 0 { 0 } else { self.ends[row.values.start + column - 1] };
        &self.text[row.text + start..row.text + end]
    }

    /// Makes a batch of the rows that there are.
    fn batch(&mut self) -> Result<Option<Result<Batch, Broken>>> {
        let mut rows = std::mem::take(&mut self.rows);
        let sound: Vec<usize> = (0..rows.len()).filter(|row| rows[*row].wrong.is_none()).collect();
        let mut mend = vec![Vec::new(); rows.len()];
        for row in self.unreadable(&rows, &sound)? {
            mend[row] = self.wrong_values(&rows[row])?;
            rows[row].wrong = Some(self.about(&rows[row], &mend[row]));
        }
        if let Some(row) = rows.iter().find(|row| row.wrong.is_some()) {
            let broken = Broken { line: row.line, what: row.wrong.clone().unwrap_or_default() };
            if self.mode == BrokenRows::Fail {
                return Ok(Some(Err(broken)));
            }
            self.tally.first.get_or_insert(broken);
        }
        let count = rows.iter().filter(|row| row.wrong.is_some()).count() as u64;
        let given: Vec<usize> = match self.mode {
            BrokenRows::Fail => (0..rows.len()).collect(),
            BrokenRows::Drop => {
                self.tally.dropped += count;
                (0..rows.len()).filter(|row| rows[*row].wrong.is_none()).collect()
            }
            BrokenRows::Permissive => {
                self.tally.mended += count;
                for (row, mend) in rows.iter().zip(&mut mend) {
                    if row.wrong.is_some() && mend.is_empty() {
                        *mend = self.wrong_values(row)?;
                    }
                }
                (0..rows.len()).collect()
            }
        };
        let mut encoded = Vec::new();
        given.iter().for_each(|row| self.encode(&rows[*row], &mend[*row], &mut encoded));
        let batch = decode(&mut self.decoder, &encoded, given.len())?;
        let mut raw = StringBuilder::new();
        for row in given.iter().map(|row| &rows[*row]) {
            raw.append_option((row.wrong.is_some() && self.keep_raw).then(|| self.raw_text(row)));
        }
        self.text.clear();
        self.ends.clear();
        self.raw.clear();
        (self.begun, self.used) = ((0, 0, 0), (0, 0));
        let batch = match batch {
            Ok(batch) => Batch { rows: batch, raw: Arc::new(raw.finish()) },
            // Of columns that must not be null.
            Err(error) => return Err(error.into()),
        };
        Ok((batch.rows.num_rows() > 0).then_some(Ok(batch)))
    }

    fn raw_text(&self, row: &Row) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.raw[row.raw.clone()])
    }

    /// Those of some rows that the decoder refuses.
    fn unreadable(&mut self, all: &[Row], some: &[usize]) -> Result<Vec<usize>> {
        let mut encoded = Vec::new();
        some.iter().for_each(|row| self.encode(&all[*row], &[], &mut encoded));
        if some.is_empty() || decode(&mut self.decoder, &encoded, some.len())?.is_ok() {
            return Ok(Vec::new());
        }
        if let [row] = some {
            return Ok(vec![*row]);
        }
        let (first, second) = some.split_at(some.len() / 2);
        let mut refused = self.unreadable(all, first)?;
        refused.append(&mut self.unreadable(all, second)?);
        Ok(refused)
    }

    /// Columns whose text is no value of their type.
    fn wrong_values(&mut self, row: &Row) -> Result<Vec<usize>> {
        let mut wrong = Vec::new();
        for column in self.looked_at.clone() {
            if std::str::from_utf8(self.value(row, column)).is_err() {
                wrong.push(column);
                continue;
            }
            let mut encoded = Vec::new();
            let others: Vec<usize> = (0..self.columns.fields().len()).filter(|other| *other != column).collect();
            self.encode(row, &others, &mut encoded);
            let decoder = self.single[column].get_or_insert_with(|| decoder(&self.columns, vec![column], 1));
            if decode(decoder, &encoded, 1)?.is_err() {
                wrong.push(column);
            }
        }
        Ok(wrong)
    }

    fn about(&self, row: &Row, wrong: &[usize]) -> String {
        let Some(&column) = wrong.first() else { return "it cannot be read".to_owned() };
        let field = self.columns.field(column);
        let (name, kind) = (field.name(), field.data_type());
        match self.value(row, column) {
            [] if !field.is_nullable() => format!("column `{name}` has no value, and must have one"),
            value => format!("column `{name}` is `{}`, which is no {kind}", shown(value)),
        }
    }

    /// A row as Arrow's reader reads it, without the text of some columns and of those that nobody looks at.
    fn encode(&self, row: &Row, without: &[usize], out: &mut Vec<u8>) {
        for column in 0..self.columns.fields().len() {
            if column > 0 {
                out.push(b',');
            }
            out.push(b'"');
            if self.looked_at.contains(&column) && !without.contains(&column) {
                for &byte in self.value(row, column) {
                    if byte == b'"' {
                        out.push(b'"');
                    }
                    out.push(byte);
                }
            }
            out.push(b'"');
        }
        out.push(b'\n');
    }
}

/// So much of a value is shown.
const SHOWN: usize = 80;

fn shown(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

fn decoder(columns: &SchemaRef, some: Vec<usize>, rows: usize) -> csv::reader::Decoder {
    csv::ReaderBuilder::new(Arc::clone(columns))
        .with_terminator(b'\n')
        .with_projection(some)
        .with_batch_size(rows.max(1))
        .build_decoder()
}

/// Decodes rows that [`Reader::encode`] made.
fn decode(
    decoder: &mut csv::reader::Decoder,
    encoded: &[u8],
    rows: usize,
) -> Result<Result<RecordBatch, arrow::error::ArrowError>> {
    let mut at = 0;
    while at < encoded.len() {
        match decoder.decode(&encoded[at..])? {
            0 => break,
            read => at += read,
        }
    }
    match decoder.flush() {
        Ok(Some(batch)) if batch.num_rows() == rows => Ok(Ok(batch)),
        Ok(None) if rows == 0 => {
            let schema = Arc::new(arrow::datatypes::Schema::empty());
            let options = RecordBatchOptions::new().with_row_count(Some(0));
            Ok(RecordBatch::try_new_with_options(schema, Vec::new(), &options))
        }
        Ok(_) => internal_err!("rows of CSV were written and not read back"),
        Err(error) => Ok(Err(error)),
    }
}

impl fmt::Display for BrokenRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fail => "fail",
            Self::Drop => "drop",
            Self::Permissive => "permissive",
        })
    }
}
