//! What are the bytes of an object?
//!
//! ```text
//! header 64 │ blocks of partition 0, member by member │ … │ blocks of partition R-1 │ index │ footer 56
//! ```
//! A block is a header of 40 bytes, a payload, and zeros up to a multiple of 8. Everything is little-endian. The index
//! lists members and the length and rows of each pair; readers never fetch it, it travels in messages with the footer.

use bytes::Bytes;
use model::failure::ObjectRef;
use model::ids::{MapId, StageAttempt};
use model::shuffle::{Codec, RowKind, ShuffleSpec};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Damage;
use crate::ledger;

/// Length of an object's header.
pub const HEADER: usize = 64;
/// Length of a block's header.
pub const BLOCK_HEADER: usize = 40;
/// Length of a member in the index.
pub const MEMBER: usize = 40;
/// Length of an object's footer.
pub const FOOTER: usize = 56;
/// A block is closed at so many bytes of rows: enough to compress well, little enough to hold one per stream.
pub const BLOCK_BYTES: usize = 1 << 20;
/// A block is closed at so many rows.
pub const BLOCK_ROWS: u32 = 65_536;
/// The longest row: a block of one row still has lengths of 32 bits, and memory is planned for blocks, not for rows.
pub const ROW_MAX: usize = 64 << 20;

const OBJECT_MAGIC: &[u8; 8] = b"VONKSHF1";
const FOOTER_MAGIC: &[u8; 8] = b"VONKEND1";
const BLOCK_MAGIC: &[u8; 2] = b"VB";
const VERSION: u16 = 1;
/// Lengths up to here are believed: a row, its length, and room for what an encoding adds.
const PAYLOAD_MAX: usize = ROW_MAX + (ROW_MAX >> 4) + BLOCK_BYTES;

/// What a block's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum BlockKind {
    /// One encapsulated IPC record batch message without schema.
    Arrow = 1,
    /// Per record a varint length and its bytes.
    Records = 2,
}

impl BlockKind {
    /// The kind of a shuffle's blocks.
    #[must_use]
    pub fn of(rows: &RowKind) -> Self {
        match rows {
            RowKind::Arrow { .. } => Self::Arrow,
            RowKind::Records { .. } => Self::Records,
        }
    }
}

/// What a block's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHead {
    /// What the payload is.
    pub kind: BlockKind,
    /// How the payload is compressed as a whole.
    pub codec: Codec,
    /// The partition.
    pub partition: u32,
    /// The map.
    pub map: u32,
    /// Rows, never 0.
    pub rows: u32,
    /// Length of the payload.
    pub stored: u32,
    /// Its length before compression; of Arrow rows, their bytes in memory.
    pub raw: u32,
    /// Wrapping sum of the hashes of its rows.
    pub row_sum: u64,
    /// Who wrote it: see [`tag`].
    pub tag: u32,
}

impl BlockHead {
    /// Bytes of the whole block: header, payload, zeros.
    #[must_use]
    pub fn length(&self) -> usize {
        BLOCK_HEADER + (self.stored as usize).next_multiple_of(8)
    }
}

/// What tells the blocks of one attempt at a map from all others'.
#[must_use]
pub fn tag(spec: &ShuffleSpec, map: MapId, stage_attempt: StageAttempt, attempt: u32) -> u32 {
    let mut id = [0u8; 40];
    id[..16].copy_from_slice(&spec.app.0.to_le_bytes());
    id[16..20].copy_from_slice(&spec.epoch.0.to_le_bytes());
    id[20..24].copy_from_slice(&spec.shuffle.0.to_le_bytes());
    id[24..28].copy_from_slice(&u32::from(spec.generation.0).to_le_bytes());
    id[28..32].copy_from_slice(&map.0.to_le_bytes());
    id[32..36].copy_from_slice(&stage_attempt.0.to_le_bytes());
    id[36..].copy_from_slice(&attempt.to_le_bytes());
    xxh3_64(&id) as u32
}

/// Makes a block of `buffer`, whose payload begins after 40 bytes kept for the header at `start`: writes the header,
/// appends the zeros. `head.stored` is taken from the buffer.
pub(crate) fn seal_block(buffer: &mut Vec<u8>, start: usize, head: BlockHead) {
    let payload = start + BLOCK_HEADER;
    let stored = (buffer.len() - payload) as u32;
    let header = &mut buffer[start..payload];
    header[..2].copy_from_slice(BLOCK_MAGIC);
    header[2] = head.kind as u8;
    header[3] = match head.codec {
        Codec::None => 0,
        Codec::Lz4 => 1,
        Codec::Zstd => 2,
    };
    header[4..8].copy_from_slice(&head.partition.to_le_bytes());
    header[8..12].copy_from_slice(&head.map.to_le_bytes());
    header[12..16].copy_from_slice(&head.rows.to_le_bytes());
    header[16..20].copy_from_slice(&stored.to_le_bytes());
    header[20..24].copy_from_slice(&head.raw.to_le_bytes());
    header[24..32].copy_from_slice(&head.row_sum.to_le_bytes());
    header[32..36].copy_from_slice(&head.tag.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&buffer[start..start + 36]), &buffer[payload..]);
    buffer[start + 36..payload].copy_from_slice(&crc.to_le_bytes());
    buffer.resize(payload + (stored as usize).next_multiple_of(8), 0);
}

/// Bytes of the whole block with this header, if it is one; nothing of it has been checked.
pub(crate) fn announced_length(header: &[u8; BLOCK_HEADER]) -> Result<usize, Damage> {
    let stored = u32_at(header, 16) as usize;
    if &header[..2] != BLOCK_MAGIC || stored > PAYLOAD_MAX {
        return Err(Damage::Header);
    }
    Ok(BLOCK_HEADER + stored.next_multiple_of(8))
}

/// Reads the block that `bytes` begins with and checks it whole; none if it goes on behind `bytes`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_block(bytes: &[u8]) -> Result<Option<BlockHead>, Damage> {
    let Some(header) = bytes.first_chunk::<BLOCK_HEADER>() else {
        // What is there may already be wrong, but it is wrong when the rest has come, too.
        return Ok(None);
    };
    if &header[..2] != BLOCK_MAGIC {
        return Err(Damage::Header);
    }
    let kind = match header[2] {
        1 => BlockKind::Arrow,
        2 => BlockKind::Records,
        _ => return Err(Damage::Header),
    };
    let codec = match header[3] {
        0 => Codec::None,
        1 => Codec::Lz4,
        2 => Codec::Zstd,
        _ => return Err(Damage::Header),
    };
    let head = BlockHead {
        kind,
        codec,
        partition: u32_at(header, 4),
        map: u32_at(header, 8),
        rows: u32_at(header, 12),
        stored: u32_at(header, 16),
        raw: u32_at(header, 20),
        row_sum: u64_at(header, 24),
        tag: u32_at(header, 32),
    };
    let raw_fits = kind == BlockKind::Arrow || codec != Codec::None || head.raw == head.stored;
    if head.rows == 0 || !raw_fits || head.stored as usize > PAYLOAD_MAX || head.raw as usize > PAYLOAD_MAX {
        return Err(Damage::Header);
    }
    let length = head.length();
    if bytes.len() < length {
        return Ok(None);
    }
    let (payload, zeros) = bytes[BLOCK_HEADER..length].split_at(head.stored as usize);
    if crc32c::crc32c_append(crc32c::crc32c(&header[..36]), payload) != u32_at(header, 36)
        || zeros.iter().any(|&zero| zero != 0)
    {
        return Err(Damage::Checksum);
    }
    Ok(Some(head))
}

/// The header of an object.
#[must_use]
pub fn header(spec: &ShuffleSpec, object: ObjectRef) -> [u8; HEADER] {
    let mut header = [0u8; HEADER];
    header[..8].copy_from_slice(OBJECT_MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&spec.partitions.to_le_bytes());
    header[16..20].copy_from_slice(&spec.shuffle.0.to_le_bytes());
    header[20..24].copy_from_slice(&u32::from(spec.generation.0).to_le_bytes());
    header[24..40].copy_from_slice(&spec.app.0.to_le_bytes());
    header[40..48].copy_from_slice(&object.executor.0.to_le_bytes());
    header[48..52].copy_from_slice(&object.seq.to_le_bytes());
    header[56..60].copy_from_slice(&spec.epoch.0.to_le_bytes());
    let crc = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// A member in an index: the share of a map attempt that lies in this object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The map.
    pub map: MapId,
    /// The attempt of the stage.
    pub stage_attempt: StageAttempt,
    /// The attempt of the task.
    pub attempt: u32,
    /// Which part of the map's output.
    pub part: u32,
    /// It is the last part.
    pub last: bool,
    /// Its rows.
    pub rows: u64,
    /// Their bytes before compression.
    pub raw_bytes: u64,
}

/// A member's share of a partition, if it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The partition.
    pub partition: u32,
    /// Length of its blocks, headers and zeros included.
    pub length: u64,
    /// Their rows.
    pub rows: u64,
    /// Wrapping sum of the hashes of their rows.
    pub row_sum: u64,
}

/// The index and the footer, as they end an object and travel in messages. Pairs of a member ascend by partition.
pub(crate) fn index(spec: &ShuffleSpec, members: &[(Member, &[Pair])]) -> Tail {
    let pairs: usize = members.iter().map(|(_, pairs)| pairs.len()).sum();
    let estimate = members.len() * (MEMBER + spec.partitions as usize) + pairs * 16 + FOOTER + 512;
    let mut out = Vec::with_capacity(estimate);
    let mut blocks = 0;
    for (member, pairs) in members {
        let flags = u32::from(member.last);
        for word in [member.map.0, member.stage_attempt.0, member.attempt, member.part, flags, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&member.rows.to_le_bytes());
        out.extend_from_slice(&member.raw_bytes.to_le_bytes());
        blocks += pairs.iter().map(|pair| pair.length).sum::<u64>();
    }
    let mut rest: Vec<_> = members.iter().map(|(_, pairs)| *pairs).collect();
    for partition in 0..spec.partitions {
        for pairs in &mut rest {
            match pairs.split_first() {
                Some((pair, behind)) if pair.partition == partition => {
                    put_varint(&mut out, pair.length);
                    put_varint(&mut out, pair.rows);
                    out.extend_from_slice(&pair.row_sum.to_le_bytes());
                    *pairs = behind;
                }
                _ => out.push(0),
            }
        }
    }
    let schema: &[u8] = match &spec.kind {
        RowKind::Arrow { schema } => schema,
        RowKind::Records { type_name } => type_name.as_bytes(),
    };
    out.extend_from_slice(&xxh3_64(schema).to_le_bytes());
    put_varint(&mut out, schema.len() as u64);
    out.extend_from_slice(schema);

    let index_crc = crc32c::crc32c(&out);
    let index_length = out.len();
    let index_offset = HEADER as u64 + blocks;
    let length = index_offset + (index_length + FOOTER) as u64;
    let footer = out.len();
    out.extend_from_slice(&index_offset.to_le_bytes());
    out.extend_from_slice(&(index_length as u32).to_le_bytes());
    out.extend_from_slice(&(members.len() as u32).to_le_bytes());
    out.extend_from_slice(&members.iter().map(|(member, _)| member.rows).sum::<u64>().to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&index_crc.to_le_bytes());
    out.extend_from_slice(&0u64.to_le_bytes());
    let footer_crc = crc32c::crc32c(&out[footer..]);
    out.extend_from_slice(&footer_crc.to_le_bytes());
    out.extend_from_slice(FOOTER_MAGIC);
    Tail { bytes: out.into(), index_crc, length }
}

/// The end of an object.
pub(crate) struct Tail {
    /// Index and footer.
    pub(crate) bytes: Bytes,
    /// CRC-32C of the index.
    pub(crate) index_crc: u32,
    /// Length of the object.
    pub(crate) length: u64,
}

/// What the index and the footer of an object say, checked against each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its members.
    pub members: Vec<Member>,
    /// The pairs of each member, by partition.
    pub pairs: Vec<Vec<Pair>>,
    /// CRC-32C of the index.
    pub crc: u32,
    /// Length of the object.
    pub length: u64,
    /// Length of all blocks.
    pub blocks: u64,
}

/// An index that does not add up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read the index of an object: {0}")]
pub struct BadIndex(pub String);

impl Index {
    /// Reads an index and the footer behind it.
    ///
    /// # Errors
    /// A checksum, a length or a total disagrees, or it is of another shuffle's kind of rows.
    pub fn parse(spec: &ShuffleSpec, bytes: &[u8]) -> Result<Self, BadIndex> {
        let bad = |what: &str| BadIndex(what.to_owned());
        let (body, footer) = bytes.split_last_chunk::<FOOTER>().ok_or_else(|| bad("it is too short"))?;
        if &footer[48..] != FOOTER_MAGIC || crc32c::crc32c(&footer[..44]) != u32_at(footer, 44) {
            return Err(bad("its footer is damaged"));
        }
        let (crc, count) = (u32_at(footer, 32), u32_at(footer, 12) as usize);
        if u32_at(footer, 8) as usize != body.len() || crc32c::crc32c(body) != crc || u64_at(footer, 36) != 0 {
            return Err(bad("its checksum differs"));
        }
        let mut rest = Cursor(body);
        let mut members = Vec::with_capacity(count.min(body.len() / MEMBER));
        for _ in 0..count {
            let member = rest.take::<MEMBER>().ok_or_else(|| bad("a member is cut off"))?;
            if u32_at(member, 16) > 1 || u32_at(member, 20) != 0 {
                return Err(bad("a member has an unknown flag"));
            }
            members.push(Member {
                map: MapId(u32_at(member, 0)),
                stage_attempt: StageAttempt(u32_at(member, 4)),
                attempt: u32_at(member, 8),
                part: u32_at(member, 12),
                last: u32_at(member, 16) == 1,
                rows: u64_at(member, 24),
                raw_bytes: u64_at(member, 32),
            });
        }
        let mut pairs = vec![Vec::new(); members.len()];
        for partition in 0..spec.partitions {
            for pairs in &mut pairs {
                let cut_off = || bad("a pair is cut off");
                let length = rest.varint().ok_or_else(cut_off)?;
                if length == 0 {
                    continue;
                }
                let rows = rest.varint().ok_or_else(cut_off)?;
                let row_sum = u64::from_le_bytes(*rest.take().ok_or_else(cut_off)?);
                if rows == 0 || length % 8 != 0 || length < BLOCK_HEADER as u64 || length > u64::MAX >> 16 {
                    return Err(bad("a pair cannot be"));
                }
                pairs.push(Pair { partition, length, rows, row_sum });
            }
        }
        let schema: &[u8] = match &spec.kind {
            RowKind::Arrow { schema } => schema,
            RowKind::Records { type_name } => type_name.as_bytes(),
        };
        let fingerprint = rest.take().map(|bytes| u64::from_le_bytes(*bytes));
        if fingerprint != Some(xxh3_64(schema)) || rest.varint() != Some(schema.len() as u64) || rest.0 != schema {
            return Err(bad("it is of other rows"));
        }
        let mut total = 0u64;
        for (member, pairs) in members.iter().zip(&pairs) {
            if pairs.iter().map(|pair| pair.rows).try_fold(0, u64::checked_add) != Some(member.rows) {
                return Err(bad("a member's rows do not add up"));
            }
            total = total.wrapping_add(member.rows);
        }
        let blocks = pairs.iter().flatten().fold(0, |sum: u64, pair| sum.saturating_add(pair.length));
        let length = blocks.saturating_add((HEADER + bytes.len()) as u64);
        if u64_at(footer, 0) != blocks.saturating_add(HEADER as u64)
            || u64_at(footer, 24) != length
            || u64_at(footer, 16) != total
        {
            return Err(bad("its totals do not add up"));
        }
        Ok(Self { members, pairs, crc, length, blocks })
    }
}

/// What an object is, apart from its shuffle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its index.
    pub index: Index,
    /// The heads of its blocks, in order.
    pub blocks: Vec<BlockHead>,
}

/// Reads a whole object and checks every byte: for tests and for whoever suspects one.
///
/// # Errors
/// What is wrong with it.
pub fn check_object(spec: &ShuffleSpec, object: ObjectRef, bytes: &[u8]) -> Result<Object, BadIndex> {
    let bad = |what: String| BadIndex(what);
    if bytes.len() < HEADER + FOOTER || bytes[..HEADER] != header(spec, object) {
        return Err(bad("its header is not of this object".into()));
    }
    let footer = &bytes[bytes.len() - FOOTER..];
    let index_at = usize::try_from(u64_at(footer, 0)).unwrap_or(usize::MAX);
    let (body, tail) = bytes
        .split_at_checked(index_at)
        .filter(|(body, _)| body.len() >= HEADER)
        .ok_or_else(|| bad("its index lies elsewhere".into()))?;
    let index = Index::parse(spec, tail)?;
    let mut blocks = Vec::new();
    let mut rest = &body[HEADER..];
    for partition in 0..spec.partitions {
        for (member, pairs) in index.members.iter().zip(&index.pairs) {
            let Ok(at) = pairs.binary_search_by_key(&partition, |pair| pair.partition) else { continue };
            let (mut length, mut rows, mut row_sum) = (0, 0, 0u64);
            while length < pairs[at].length {
                let head = parse_block(rest)
                    .map_err(|damage| bad(damage.to_string()))?
                    .ok_or_else(|| bad(Damage::Overrun.to_string()))?;
                let writer = tag(spec, member.map, member.stage_attempt, member.attempt);
                if (head.partition, head.map, head.tag) != (partition, member.map.0, writer) {
                    return Err(bad("a block lies in the wrong place".into()));
                }
                length += head.length() as u64;
                rows += u64::from(head.rows);
                row_sum = row_sum.wrapping_add(head.row_sum);
                rest = &rest[head.length()..];
                blocks.push(head);
            }
            if (length, rows, row_sum) != (pairs[at].length, pairs[at].rows, pairs[at].row_sum) {
                return Err(bad("a pair does not hold what the index says".into()));
            }
        }
    }
    if rest.is_empty() { Ok(Object { index, blocks }) } else { Err(bad("blocks are left over".into())) }
}

/// The digest of a map, from the pairs of all its parts.
#[must_use]
pub fn digest<'a>(pairs: impl IntoIterator<Item = &'a Pair>) -> u64 {
    let mut sum = ledger::Sum::default();
    for pair in pairs {
        sum.add(ledger::weight(pair.partition), ledger::entry(pair.rows, pair.row_sum));
    }
    sum.0
}

/// Appends a number in groups of 7 bits, the lowest first.
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number from the front of `bytes`.
#[inline]
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        *bytes = rest;
        return Some(u64::from(first));
    }
    let mut number = u64::from(first & 0x7f);
    for (at, &byte) in rest.iter().enumerate().take(9) {
        // The tenth group has one bit left.
        if at == 8 && byte > 1 {
            return None;
        }
        number |= u64::from(byte & 0x7f) << (7 * (at + 1));
        if byte < 0x80 {
            *bytes = &rest[at + 1..];
            return Some(number);
        }
    }
    None
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (chunk, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(chunk)
    }

    fn varint(&mut self) -> Option<u64> {
        take_varint(&mut self.0)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were sliced"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were sliced"))
}

/// The key of an object, relative to the store's root.
#[must_use]
pub fn key(spec: &ShuffleSpec, object: ObjectRef) -> String {
    model::keys::shuffle_object(spec.app, spec.epoch, spec.shuffle, spec.generation, object)
}

#[cfg(test)]
mod tests {
    use model::ids::{AppId, Epoch, ExecutorId, Generation, ShuffleId};
    use proptest::prelude::*;

    use super::*;

    fn spec() -> ShuffleSpec {
        ShuffleSpec {
            app: AppId(0x0102_0304),
            epoch: Epoch(1),
            shuffle: ShuffleId(2),
            generation: Generation(3),
            maps: 4,
            partitions: 3,
            kind: RowKind::Records { type_name: "u32".into() },
            codec: Codec::None,
            inline_max: 0,
        }
    }

    const OBJECT: ObjectRef = ObjectRef { executor: ExecutorId(9), seq: 5 };

    fn block(partition: u32, record: &[u8]) -> (Vec<u8>, Pair) {
        let spec = spec();
        let mut buffer = vec![0; BLOCK_HEADER];
        put_varint(&mut buffer, record.len() as u64);
        buffer.extend_from_slice(record);
        let raw = (buffer.len() - BLOCK_HEADER) as u32;
        let row_sum = ledger::record_hash(record);
        let head = BlockHead {
            kind: BlockKind::Records,
            codec: Codec::None,
            partition,
            map: 1,
            rows: 1,
            stored: raw,
            raw,
            row_sum,
            tag: tag(&spec, MapId(1), StageAttempt(0), 2),
        };
        seal_block(&mut buffer, 0, head);
        let length = buffer.len() as u64;
        (buffer, Pair { partition, length, rows: 1, row_sum })
    }

    fn object() -> Vec<u8> {
        let (first, first_pair) = block(0, b"ab");
        let (second, second_pair) = block(2, b"vonk vonk");
        let member = Member {
            map: MapId(1),
            stage_attempt: StageAttempt(0),
            attempt: 2,
            part: 0,
            last: true,
            rows: 2,
            raw_bytes: 13,
        };
        let tail = index(&spec(), &[(member, &[first_pair, second_pair])]);
        let object = [&header(&spec(), OBJECT)[..], &first, &second, &tail.bytes].concat();
        assert_eq!(tail.length, object.len() as u64);
        object
    }

    #[test]
    fn the_bytes_of_an_object_never_change() {
        let lines: Vec<String> =
            object().chunks(16).map(|row| row.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        564f4e4b534846310100000003000000
        02000000030000000403020100000000
        00000000000000000900000000000000
        05000000000000000100000053bac571
        56420200000000000100000001000000
        03000000030000005c73d5249c7173a8
        2bb12b8a4c41bdc90261620000000000
        56420200020000000100000001000000
        0a0000000a000000feb044b16f3db117
        2bb12b8a5165470f09766f6e6b20766f
        6e6b0000000000000100000000000000
        02000000000000000100000000000000
        02000000000000000d00000000000000
        30015c73d5249c7173a8003801feb044
        b16f3db117a4f6cf424abb645f037533
        32a80000000000000049000000010000
        00020000000000000029010000000000
        005d27e1fd0000000000000000b48c10
        f9564f4e4b454e4431
        ");
    }

    #[test]
    fn an_object_reads_back() {
        let checked = check_object(&spec(), OBJECT, &object()).unwrap();
        assert_eq!((checked.blocks.len(), checked.index.members.len()), (2, 1));
        assert_eq!(checked.blocks[1].partition, 2);
    }

    #[test]
    fn any_flipped_bit_of_an_object_is_detected() {
        let good = object();
        for at in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(check_object(&spec(), OBJECT, &bad).is_err(), "bit {at}");
        }
        for length in 0..good.len() {
            assert!(check_object(&spec(), OBJECT, &good[..length]).is_err(), "cut at {length}");
        }
    }

    proptest! {
        #[test]
        fn varints_read_back(number: u64, behind: Vec<u8>) {
            let mut out = Vec::new();
            put_varint(&mut out, number);
            out.extend_from_slice(&behind);
            let mut rest = &out[..];
            prop_assert_eq!(take_varint(&mut rest), Some(number));
            prop_assert_eq!(rest, &behind[..]);
        }

        #[test]
        fn garbage_is_refused_without_a_panic(garbage: Vec<u8>) {
            let _ = parse_block(&garbage);
            let _ = take_varint(&mut &garbage[..]);
            prop_assert!(Index::parse(&spec(), &garbage).is_err());
            prop_assert!(check_object(&spec(), OBJECT, &garbage).is_err());
        }
    }
}
