//! What may a driver and an executor say? Any message, from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use model::failure::{LossCause, MapFault, ObjectRef};
use model::graph::BodyKind;
use model::messages::*;
use model::metrics::TaskMetrics;
use model::shuffle::*;
use model::write::StagedFile;
use model::*;

/// Throws values; edges of each range come up often.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn u64(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        match z % 5 {
            0 => 0,
            1 => u64::MAX,
            2 => z >> 48,
            _ => z,
        }
    }

    fn u32(&mut self) -> u32 {
        self.u64() as u32
    }

    fn u16(&mut self) -> u16 {
        self.u64() as u16
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.u64().wrapping_mul(31).rotate_left(17) % n
    }

    fn bool(&mut self) -> bool {
        self.below(2) == 0
    }

    fn text(&mut self) -> String {
        let length = self.below(5);
        (0..length).map(|_| ["a", "é", "\0", " at src/main.rs:3", "\u{1F525}"][self.below(5) as usize]).collect()
    }

    fn bytes(&mut self) -> Bytes {
        let length = self.below(40);
        (0..length).map(|_| self.u64() as u8).collect()
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let length = self.below(4);
        (0..length).map(|_| item(self)).collect()
    }

    fn maybe<T>(&mut self, item: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.bool().then(|| item(self))
    }

    fn app(&mut self) -> AppId {
        AppId(u128::from(self.u64()) << 64 | u128::from(self.u64()))
    }

    fn attempt(&mut self) -> AttemptId {
        AttemptId {
            job: JobId(self.u32()),
            stage: StageId(self.u32()),
            stage_attempt: StageAttempt(self.u32()),
            partition: PartitionId(self.u32()),
            attempt: self.u32(),
        }
    }

    fn object(&mut self) -> ObjectRef {
        ObjectRef { executor: ExecutorId(self.u64()), seq: self.u32() }
    }

    fn payload(&mut self) -> Payload {
        match self.bool() {
            true => Payload::Inline(self.bytes()),
            false => Payload::Stored { key: self.text(), length: self.u64(), crc: self.u32() },
        }
    }

    fn spec(&mut self) -> ShuffleSpec {
        ShuffleSpec {
            app: self.app(),
            epoch: Epoch(self.u32()),
            shuffle: ShuffleId(self.u32()),
            generation: Generation(self.u16()),
            maps: self.u32(),
            partitions: self.u32(),
            kind: match self.bool() {
                true => RowKind::Arrow { schema: self.bytes() },
                false => RowKind::Records { type_name: self.text() },
            },
            codec: [Codec::None, Codec::Lz4, Codec::Zstd][self.below(3) as usize],
            inline_max: self.u32(),
        }
    }

    fn range(&mut self) -> ReadRange {
        ReadRange { shuffle: ShuffleId(self.u32()), start: self.u32(), end: self.u32() }
    }

    fn plan(&mut self) -> ReadPlan {
        ReadPlan {
            range: self.range(),
            generation: Generation(self.u16()),
            mode: ReadMode::Fused,
            sources: self.list(|d| ReadSource {
                bytes: match d.bool() {
                    true => SourceBytes::Inline(d.bytes()),
                    false => SourceBytes::Object { object: d.object(), offset: d.u64(), length: d.u64() },
                },
                members: d.list(|d| SourceMember {
                    map: MapId(d.u32()),
                    stage_attempt: StageAttempt(d.u32()),
                    attempt: d.u32(),
                    lengths: d.list(Self::u64),
                    rows: d.list(Self::u64),
                }),
            }),
        }
    }

    fn failure(&mut self) -> Failure {
        let kind = match self.below(15) {
            0 => FailureKind::Query,
            1 => FailureKind::UserCode { panicked: self.bool(), transient: self.bool() },
            2 => FailureKind::MapOutput {
                shuffle: ShuffleId(self.u32()),
                generation: Generation(self.u16()),
                maps: self.list(|d| MapId(d.u32())),
                fault: if self.bool() { MapFault::Missing } else { MapFault::Corrupt },
                object: self.maybe(Self::object),
            },
            3 => FailureKind::TaskMemory,
            4 => FailureKind::Disk,
            5 => FailureKind::StoreUnavailable,
            6 => FailureKind::Lost(
                [
                    LossCause::Released,
                    LossCause::Infrastructure,
                    LossCause::Memory,
                    LossCause::Program,
                    LossCause::Start,
                ][self.below(5) as usize],
            ),
            7 => FailureKind::StoreDenied,
            8 => FailureKind::Limit,
            9 => FailureKind::Commit,
            10 => FailureKind::NotDeterministic,
            11 => FailureKind::LedgerMismatch,
            12 => FailureKind::Cancelled,
            13 => FailureKind::Stale,
            _ => FailureKind::Internal,
        };
        Failure {
            kind,
            message: self.text(),
            chain: self.list(Self::text),
            attempt: self.maybe(Self::attempt),
            executor: self.maybe(|d| ExecutorId(d.u64())),
            last_lines: self.list(Self::text),
        }
    }

    fn output(&mut self) -> MapOutput {
        MapOutput {
            shuffle: ShuffleId(self.u32()),
            generation: Generation(self.u16()),
            map: MapId(self.u32()),
            stage_attempt: StageAttempt(self.u32()),
            attempt: self.u32(),
            rows: self.u64(),
            raw_bytes: self.u64(),
            stored_bytes: self.u64(),
            digest: self.u64(),
            location: match self.bool() {
                true => MapRows::Inline { blocks: self.bytes(), index: self.bytes(), index_crc: self.u32() },
                false => MapRows::Stored {
                    parts: self.list(Self::object),
                    new_objects: self.list(|d| NewObject {
                        seq: d.u32(),
                        length: d.u64(),
                        index: d.bytes(),
                        index_crc: d.u32(),
                        requests: d.u32(),
                    }),
                },
            },
        }
    }

    fn metrics(&mut self) -> TaskMetrics {
        TaskMetrics {
            run_micros: self.u64(),
            input_rows: self.u64(),
            input_bytes: self.u64(),
            output_rows: self.u64(),
            output_bytes: self.u64(),
            shuffle_read_rows: self.u64(),
            shuffle_read_bytes: self.u64(),
            shuffle_read_requests: self.u64(),
            shuffle_read_retries: self.u64(),
            shuffle_write_rows: self.u64(),
            shuffle_write_bytes: self.u64(),
            spilled_bytes: self.u64(),
            spills: self.u64(),
            broken_rows_dropped: self.u64(),
            broken_rows_mended: self.u64(),
            input_requests: self.u64(),
            shuffle_write_requests: self.u64(),
        }
    }

    fn success(&mut self) -> TaskSuccess {
        TaskSuccess {
            result: self.maybe(Self::payload),
            map_output: self.maybe(Self::output),
            staged: self.list(|d| StagedFile {
                staged: d.text(),
                published: d.text(),
                bytes: d.u64(),
                rows: d.u64(),
                fingerprint: d.u64(),
            }),
            reads: self.list(|d| ReadReport {
                range: d.range(),
                generation: Generation(d.u16()),
                complete: d.bool(),
                rows: d.list(Self::u64),
                fingerprints: d.list(Self::u64),
                bytes: d.u64(),
                requests: d.u64(),
                retries: d.u64(),
            }),
            accumulators: self.list(|d| AccumulatorUpdate { accumulator: AccumulatorId(d.u32()), value: d.bytes() }),
            cached: self.list(|d| (RddId(d.u32()), PartitionId(d.u32()))),
            warnings: self.list(Self::text),
            metrics: self.metrics(),
        }
    }

    pub(crate) fn status(&mut self) -> TaskStatus {
        TaskStatus {
            number: self.u64(),
            attempt: self.attempt(),
            outcome: match self.bool() {
                true => TaskOutcome::Succeeded(Box::new(self.success())),
                false => TaskOutcome::Failed(Box::new(self.failure())),
            },
        }
    }

    pub(crate) fn task(&mut self) -> LaunchTask {
        LaunchTask {
            attempt: self.attempt(),
            input: self.payload(),
            reads: self.list(Self::plan),
            stage_has_pending: self.bool(),
        }
    }

    pub(crate) fn drivers_word(&mut self) -> ToExecutor {
        match self.below(11) {
            0 => ToExecutor::Hello(Box::new(Hello {
                protocol: self.u32(),
                app: self.app(),
                epoch: Epoch(self.u32()),
                executor: ExecutorId(self.u64()),
                program: self.text(),
                slots: self.u32(),
                memory: self.u64(),
                store: self.text(),
                settings: self.list(|d| (d.text(), d.text())).into_iter().collect::<BTreeMap<_, _>>(),
            })),
            1 => ToExecutor::Body(Box::new(StageBody {
                stage: StageId(self.u32()),
                stage_attempt: StageAttempt(self.u32()),
                name: self.text(),
                kind: if self.bool() { BodyKind::Function } else { BodyKind::Plan },
                body: self.payload(),
                writes: self.maybe(Self::spec),
                reads: self.list(Self::spec),
            })),
            2 => ToExecutor::Launch(self.list(Self::task)),
            3 => ToExecutor::Cancel(self.list(Self::attempt)),
            4 => ToExecutor::ForgetStage(StageId(self.u32()), StageAttempt(self.u32())),
            5 => ToExecutor::NoMoreMaps(ShuffleId(self.u32()), Generation(self.u16())),
            6 => ToExecutor::Acknowledge(self.u64()),
            7 => ToExecutor::Unpersist(RddId(self.u32())),
            8 => ToExecutor::ForgetBroadcast(BroadcastId(self.u32())),
            9 => ToExecutor::Heartbeat,
            _ => ToExecutor::Drain { grace: Duration::new(self.u64(), self.below(1_000_000_000) as u32) },
        }
    }

    pub(crate) fn executors_word(&mut self) -> FromExecutor {
        match self.below(6) {
            0 => FromExecutor::Hello(Box::new(HelloReply {
                protocol: self.u32(),
                app: self.app(),
                epoch: Epoch(self.u32()),
                executor: ExecutorId(self.u64()),
                program: self.text(),
                holding: self.list(Self::attempt),
            })),
            1 => FromExecutor::Started(self.list(Self::attempt)),
            2 => FromExecutor::HandedOver(self.list(Self::attempt)),
            3 => FromExecutor::Status(self.list(Self::status)),
            4 => FromExecutor::Heartbeat(ExecutorHeartbeat {
                open_objects: self.list(|d| OpenObject {
                    shuffle: ShuffleId(d.u32()),
                    generation: Generation(d.u16()),
                    object: d.object(),
                }),
                memory_used: self.u64(),
                running: self.u32(),
            }),
            _ => FromExecutor::Drained,
        }
    }
}
