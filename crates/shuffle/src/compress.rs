//! How do bytes get smaller?
//!
//! Blocks of records are compressed as a whole. Batches are compressed buffer by buffer, as IPC prescribes: an LZ4 frame
//! or a Zstandard frame behind the length it has when it is read. The frame is put around LZ4 blocks here, since an
//! encoder of frames copies all it is given and takes memory of its own for each.

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use model::shuffle::Codec;

/// Zstandard's fastest ordinary level: beyond it time grows faster than blocks shrink.
const ZSTD_LEVEL: i32 = 1;

/// Stands for the length of an IPC buffer that is not compressed.
const AS_IT_IS: i64 = -1;
/// What a frame has besides its blocks and their lengths: magic, descriptor, and a length of 0 behind the last.
const FRAME_SLACK: usize = 7 + 4;
const FRAME_MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();
/// Version 1, blocks that need no earlier ones, no checksums: the shuffle's blocks have their own.
const FRAME_FLAGS: u8 = 0x60;
/// How long the blocks of a frame may be, the byte that says so, and the checksum of flags and that byte.
const FRAME_BLOCKS: [(usize, u8, u8); 4] =
    [(64 << 10, 0x40, 0x82), (256 << 10, 0x50, 0xfb), (1 << 20, 0x60, 0x51), (4 << 20, 0x70, 0x73)];
/// Set in the length of a frame's block that is not compressed.
const BLOCK_AS_IT_IS: u32 = 1 << 31;

/// What compression needs from one block to the next.
#[derive(Default)]
pub(crate) struct Compressor {
    table: Option<CompressTable>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    /// Room for the longest output so far. A block of its own would keep all of that room.
    room: Vec<u8>,
}

impl Compressor {
    /// The bytes that stand for these, unless they are no fewer.
    pub(crate) fn compress(&mut self, codec: Codec, raw: &[u8]) -> Option<&[u8]> {
        if codec == Codec::None {
            return None;
        }
        let mut room = std::mem::take(&mut self.room);
        make_room(&mut room, most(codec, raw.len()));
        let length = self.compress_into(codec, raw, &mut room);
        self.room = room;
        length.filter(|length| *length < raw.len()).map(|length| &self.room[..length])
    }

    /// Compresses into a room that is large enough.
    fn compress_into(&mut self, codec: Codec, raw: &[u8], room: &mut [u8]) -> Option<usize> {
        match codec {
            Codec::None => None,
            Codec::Lz4 => {
                let table = self.table.get_or_insert_with(CompressTable::default);
                compress_into_with_table(raw, room, table).ok()
            }
            Codec::Zstd => {
                let zstd = match &mut self.zstd {
                    Some(zstd) => zstd,
                    none => none.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL).ok()?),
                };
                zstd.compress_to_buffer(raw, room).ok()
            }
        }
    }

    /// Puts a buffer of an IPC message at this place of a room: nothing if it is empty, itself if it gets no shorter.
    /// Returns where it ends.
    pub(crate) fn put_ipc_buffer(&mut self, codec: Codec, raw: &[u8], room: &mut Vec<u8>, start: usize) -> usize {
        if raw.is_empty() {
            return start;
        }
        let at = start + size_of::<i64>();
        make_room(room, at + most(codec, raw.len()).max(raw.len()));
        let compressed = match codec {
            Codec::Lz4 => Some(self.put_lz4_frame(raw, &mut room[at..])),
            other => self.compress_into(other, raw, &mut room[at..]),
        };
        let (length, end) = match compressed.filter(|length| *length < raw.len()) {
            Some(length) => (raw.len() as i64, at + length),
            None => {
                room[at..at + raw.len()].copy_from_slice(raw);
                (AS_IT_IS, at + raw.len())
            }
        };
        room[start..at].copy_from_slice(&length.to_le_bytes());
        end
    }

    fn put_lz4_frame(&mut self, raw: &[u8], room: &mut [u8]) -> usize {
        let fits = FRAME_BLOCKS.into_iter().find(|(longest, ..)| raw.len() <= *longest);
        let (longest, descriptor, checksum) = fits.unwrap_or(FRAME_BLOCKS[3]);
        room[..4].copy_from_slice(&FRAME_MAGIC);
        room[4..7].copy_from_slice(&[FRAME_FLAGS, descriptor, checksum]);
        let mut at = 7;
        for block in raw.chunks(longest) {
            let begin = at + 4;
            let compressed = self.compress_into(Codec::Lz4, block, &mut room[begin..]);
            let (length, flag) = match compressed.filter(|length| *length < block.len()) {
                Some(length) => (length, 0),
                None => {
                    room[begin..begin + block.len()].copy_from_slice(block);
                    (block.len(), BLOCK_AS_IT_IS)
                }
            };
            room[at..begin].copy_from_slice(&(length as u32 | flag).to_le_bytes());
            at = begin + length;
        }
        room[at..at + 4].copy_from_slice(&[0; 4]);
        at + 4
    }
}

/// Makes a room at least so long. It never gets shorter: bytes of an earlier use are overwritten, not cleared.
pub(crate) fn make_room(room: &mut Vec<u8>, length: usize) {
    if room.len() < length {
        room.resize(length.next_power_of_two(), 0);
    }
}

/// The longest output that so many bytes can have, in one piece or as a frame.
fn most(codec: Codec, length: usize) -> usize {
    match codec {
        Codec::None => length,
        Codec::Lz4 => get_maximum_output_size(length) + FRAME_SLACK + (length / FRAME_BLOCKS[3].0 + 1) * 24,
        Codec::Zstd => zstd::zstd_safe::compress_bound(length),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use lz4_flex::frame::FrameDecoder;
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    /// Bytes that get shorter, or do not.
    fn bytes(length: usize, compressible: bool) -> Vec<u8> {
        let mixed = |n: usize| xxh3_64(&n.to_le_bytes()) as u8;
        (0..length).map(|n| if compressible { mixed(n % 100) } else { mixed(n) }).collect()
    }

    #[test]
    fn any_decoder_reads_our_frames() {
        let mut compressor = Compressor::default();
        for (longest, ..) in FRAME_BLOCKS {
            for length in [1, longest - 1, longest, longest + 1, 2 * longest + 7] {
                for compressible in [true, false] {
                    let raw = bytes(length, compressible);
                    let mut room = vec![0xee; most(Codec::Lz4, length)];
                    let end = compressor.put_lz4_frame(&raw, &mut room);
                    let mut back = Vec::new();
                    let mut decoder = FrameDecoder::new(&room[..end]);
                    decoder.read_to_end(&mut back).unwrap();
                    assert!(back == raw, "{length} bytes, compressible: {compressible}");
                    assert!(decoder.get_ref().is_empty(), "nothing is left behind a frame of {length} bytes");
                }
            }
        }
    }

    #[test]
    fn what_does_not_shrink_stays_as_it_is() {
        let mut compressor = Compressor::default();
        for codec in [Codec::Lz4, Codec::Zstd] {
            let mut room = Vec::new();
            let (noise, zeros) = (bytes(5_000, false), vec![0; 5_000]);
            assert!(compressor.compress(codec, &noise).is_none());
            assert!(compressor.compress(codec, &zeros).unwrap().len() < 500);
            let end = compressor.put_ipc_buffer(codec, &noise, &mut room, 3);
            assert!(room[3..11] == AS_IT_IS.to_le_bytes() && room[11..end] == noise);
            let end = compressor.put_ipc_buffer(codec, &zeros, &mut room, 3);
            assert!(room[3..11] == 5_000_i64.to_le_bytes() && end < 500);
            assert_eq!(compressor.put_ipc_buffer(codec, &[], &mut room, 3), 3);
        }
    }
}
