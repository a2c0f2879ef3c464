//! What is the next step of a commit, given what the last one met?
//!
//! Pure: whoever performs the steps is told what to do and answers with what happened. [`Placing`] brings an entry into
//! the log; [`Finishing`] carries out what an entry says, for its own driver and for whoever finds it unfinished.

use model::write::{self, WriteId, WriteMode};

use super::log::{Decision, Entry};

/// How many keys are deleted between two looks for the mark that somebody else was faster.
const DELETE_BATCH: usize = 1_000;

/// Brings an entry into the log: the first number above `base` at which nobody else was first.
#[derive(Debug)]
pub(super) struct Placing {
    write: WriteId,
    nonce: String,
    intent: Intent,
    number: u64,
    place: Place,
}

/// What is to be entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    /// That the write counts.
    Commit(WriteMode),
    /// That it never will.
    Tombstone,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Create the entry under this number, and answer with [`Placing::created`].
    Create(u64),
    /// Read the entry of this number, and answer with [`Placing::read`].
    Read(u64),
    /// Wait for unfinished entries, finish them, list again what this overwrite deletes, and say [`Placing::settled`].
    Settle,
    /// Nothing: the entry is in the log.
    Won(u64),
    /// Nothing: it never will be.
    Lost(Lost),
}

/// Why an entry has no place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lost {
    /// The write has a tombstone already.
    Aborted {
        /// Its number.
        number: u64,
    },
    /// The write is committed already.
    Committed {
        /// The entry's number.
        number: u64,
        /// The entry.
        entry: Box<Entry>,
    },
    /// Another write was committed that does not go together with this one.
    Conflict(WriteId),
}

impl Placing {
    /// `base` was the greatest number when the write began.
    pub(super) fn new(write: WriteId, nonce: String, intent: Intent, base: u64) -> Self {
        let place = match intent {
            Intent::Commit(WriteMode::Overwrite) => Place::Settle,
            Intent::Commit(_) | Intent::Tombstone => Place::Create(base + 1),
        };
        Self { write, nonce, intent, number: base + 1, place }
    }

    pub(super) fn next(&self) -> &Place {
        &self.place
    }

    /// Whether the store said that the entry was created. If it said anything else, nothing is known: also "exists" can
    /// be the answer to one's own request, repeated by a client that did not hear the first answer.
    pub(super) fn created(&mut self, heard: bool) {
        self.place = if heard { Place::Won(self.number) } else { Place::Read(self.number) };
    }

    /// What lies under the number.
    pub(super) fn read(&mut self, found: Option<Entry>) {
        self.place = match found {
            None => Place::Create(self.number),
            Some(entry) if entry.nonce == self.nonce => Place::Won(self.number),
            Some(entry) if entry.write == self.write => Place::Lost(match entry.decision {
                Decision::Tombstone => Lost::Aborted { number: self.number },
                Decision::Commit { .. } => Lost::Committed { number: self.number, entry: Box::new(entry) },
            }),
            Some(entry) => self.meet(&entry),
        };
    }

    /// Unfinished entries are finished, and the deletions listed.
    pub(super) fn settled(&mut self) {
        self.place = Place::Create(self.number);
    }

    /// Another write has the number.
    fn meet(&mut self, other: &Entry) -> Place {
        let Decision::Commit { mode: theirs, .. } = &other.decision else { return self.climb() };
        match (self.intent, theirs) {
            (Intent::Commit(WriteMode::ErrorIfExists | WriteMode::Ignore), _)
            | (Intent::Commit(WriteMode::Overwrite), WriteMode::Overwrite) => Place::Lost(Lost::Conflict(other.write)),
            (Intent::Commit(WriteMode::Overwrite), _) => {
                self.climb();
                Place::Settle
            }
            (Intent::Commit(WriteMode::Append) | Intent::Tombstone, _) => self.climb(),
        }
    }

    fn climb(&mut self) -> Place {
        self.number += 1;
        Place::Create(self.number)
    }
}

/// Carries out an entry. Any number of processes may do so at once, or one after the other.
#[derive(Debug)]
pub(super) struct Finishing {
    number: u64,
    entry: Entry,
    at: At,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Begin,
    DropSuccess,
    Copy,
    /// A staged file and its copy are both gone: either somebody finished the write long ago, or it is damaged.
    Doubt {
        file: String,
    },
    BeforeDelete {
        from: usize,
    },
    Delete {
        from: usize,
    },
    /// Whoever was faster may have said so already, and later writes after it.
    BeforeSuccess,
    Success,
    Clear,
    Mark,
    Ended(Ended),
}

/// What is to be done next; each is repeatable, and answered with [`Finishing::answer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Do {
    /// Look for this name: [`Answer::Found`].
    Look(String),
    /// Delete these names.
    Delete(Vec<String>),
    /// Copy every staged file to its final name, and check sizes: [`Answer::Gone`] if that cannot be.
    Copy,
    /// Put these bytes into `_SUCCESS`, unless a later write has put its own there.
    Announce(Vec<u8>),
    /// Write these bytes under this name.
    Write(String, Vec<u8>),
    /// Delete everything that the write staged.
    Clear(WriteId),
    /// Nothing.
    End(Ended),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was done.
    Ok,
    /// Whether the name is there.
    Found(bool),
    /// This staged file is gone, and its final one is not there or not right.
    Gone(String),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// Everything was done.
    Finished,
    /// Somebody else did everything before.
    Before,
    /// This staged file is lost.
    Damaged(String),
}

impl Finishing {
    pub(super) fn new(number: u64, entry: Entry) -> Self {
        Self { number, entry, at: At::Begin }
    }

    pub(super) fn entry(&self) -> &Entry {
        &self.entry
    }

    fn deletes(&self) -> &[String] {
        match &self.entry.decision {
            Decision::Commit { deletes, .. } => deletes,
            Decision::Tombstone => &[],
        }
    }

    pub(super) fn next(&self) -> Do {
        match &self.at {
            At::Begin | At::Doubt { .. } | At::BeforeDelete { .. } | At::BeforeSuccess => {
                Do::Look(write::log_done(self.number))
            }
            At::DropSuccess => Do::Delete(vec![write::SUCCESS.to_owned()]),
            At::Copy => Do::Copy,
            At::Delete { from } => Do::Delete(self.deletes().iter().skip(*from).take(DELETE_BATCH).cloned().collect()),
            At::Success => Do::Announce(self.entry.success(self.number)),
            At::Clear => Do::Clear(self.entry.write),
            At::Mark => Do::Write(write::log_done(self.number), Vec::new()),
            At::Ended(ended) => Do::End(ended.clone()),
        }
    }

    pub(super) fn answer(&mut self, answer: Answer) {
        let done = answer == Answer::Found(true);
        self.at = match (&self.at, answer) {
            (At::Doubt { file }, _) if !done => At::Ended(Ended::Damaged(file.clone())),
            (At::Begin | At::Doubt { .. } | At::BeforeDelete { .. } | At::BeforeSuccess, _) if done => {
                At::Ended(Ended::Before)
            }
            (At::Begin | At::Doubt { .. }, _) if self.entry.is_commit() => At::DropSuccess,
            (At::Begin | At::Doubt { .. }, _) => At::Clear,
            (At::DropSuccess, _) => At::Copy,
            (At::Copy, Answer::Gone(file)) => At::Doubt { file },
            (At::Copy, _) => self.delete_from(0),
            (At::BeforeDelete { from }, _) => At::Delete { from: *from },
            (At::Delete { from }, _) => self.delete_from(from + DELETE_BATCH),
            (At::BeforeSuccess, _) => At::Success,
            (At::Success, _) => At::Clear,
            (At::Clear, _) => At::Mark,
            (At::Mark, _) => At::Ended(Ended::Finished),
            (At::Ended(ended), _) => At::Ended(ended.clone()),
        };
    }

    fn delete_from(&self, from: usize) -> At {
        if from < self.deletes().len() { At::BeforeDelete { from } } else { At::BeforeSuccess }
    }
}

#[cfg(test)]
mod tests {
    use model::{AppId, Epoch, JobId};

    use super::*;

    fn write(job: u32) -> WriteId {
        WriteId { app: AppId(1), epoch: Epoch(1), job: JobId(job) }
    }

    fn commit(job: u32, mode: WriteMode, deletes: usize) -> Entry {
        let deletes = (0..deletes).map(|i| format!("old-{i}")).collect();
        Entry::new(format!("n{job}"), write(job), Decision::Commit { mode, files: Vec::new(), deletes })
    }

    fn tombstone(job: u32) -> Entry {
        Entry::new("tomb".to_owned(), write(job), Decision::Tombstone)
    }

    fn placing(intent: Intent) -> Placing {
        Placing::new(write(1), "n1".to_owned(), intent, 4)
    }

    /// The place after somebody else's entry was met under the first number.
    fn met(intent: Intent, entry: Entry) -> Place {
        let mut placing = placing(intent);
        if *placing.next() == Place::Settle {
            placing.settled();
        }
        assert_eq!(*placing.next(), Place::Create(5));
        placing.created(false);
        assert_eq!(*placing.next(), Place::Read(5));
        placing.read(Some(entry));
        placing.next().clone()
    }

    #[test]
    fn an_entry_that_was_made_unheard_is_known_again_and_one_that_was_not_is_made_again() {
        let append = Intent::Commit(WriteMode::Append);
        assert_eq!(met(append, commit(1, WriteMode::Append, 0)), Place::Won(5));
        let mut placing = placing(append);
        placing.created(false);
        placing.read(None);
        assert_eq!(*placing.next(), Place::Create(5), "the same number again");
        placing.created(true);
        assert_eq!(*placing.next(), Place::Won(5));
    }

    #[test]
    fn a_write_that_was_given_up_never_counts_and_one_that_counts_is_never_given_up() {
        for mode in [WriteMode::Append, WriteMode::Overwrite, WriteMode::ErrorIfExists, WriteMode::Ignore] {
            assert_eq!(met(Intent::Commit(mode), tombstone(1)), Place::Lost(Lost::Aborted { number: 5 }));
        }
        let entry = commit(1, WriteMode::Append, 0);
        let mut placing = Placing::new(write(1), "other".to_owned(), Intent::Tombstone, 4);
        placing.created(false);
        placing.read(Some(entry.clone()));
        assert_eq!(*placing.next(), Place::Lost(Lost::Committed { number: 5, entry: Box::new(entry) }));
    }

    #[test]
    fn whom_a_write_meets_decides_what_it_does() {
        use WriteMode::{Append, ErrorIfExists, Ignore, Overwrite};
        for (ours, theirs, want) in [
            (Append, Append, Place::Create(6)),
            (Append, Overwrite, Place::Create(6)),
            (Overwrite, Append, Place::Settle),
            (Overwrite, ErrorIfExists, Place::Settle),
            (Overwrite, Overwrite, Place::Lost(Lost::Conflict(write(2)))),
            (ErrorIfExists, Append, Place::Lost(Lost::Conflict(write(2)))),
            (Ignore, ErrorIfExists, Place::Lost(Lost::Conflict(write(2)))),
        ] {
            assert_eq!(met(Intent::Commit(ours), commit(2, theirs, 0)), want, "{ours:?} meets {theirs:?}");
            assert_eq!(met(Intent::Commit(ours), tombstone(2)), Place::Create(6), "another's tombstone is passed");
        }
        assert_eq!(met(Intent::Tombstone, commit(2, Overwrite, 0)), Place::Create(6));
    }

    /// Every step with the plain answer, as `check` below.
    fn steps(entry: Entry, answers: impl Fn(usize, &Do) -> Answer) -> Vec<String> {
        let mut finishing = Finishing::new(5, entry);
        let mut steps = Vec::new();
        loop {
            let step = finishing.next();
            let text = format!("{step:?}");
            steps.push(text.split(['(', ' ']).next().unwrap_or_default().to_owned());
            if let Do::End(ended) = step {
                steps.push(format!("{ended:?}"));
                return steps;
            }
            finishing.answer(answers(steps.len(), &step));
        }
    }

    fn plain(_: usize, step: &Do) -> Answer {
        if matches!(step, Do::Look(_)) { Answer::Found(false) } else { Answer::Ok }
    }

    #[test]
    fn an_entry_is_marked_done_last_and_files_go_after_their_copies() {
        assert_eq!(
            steps(commit(1, WriteMode::Overwrite, DELETE_BATCH + 1), plain).join(" "),
            "Look Delete Copy Look Delete Look Delete Look Announce Clear Write End Finished"
        );
        assert_eq!(
            steps(commit(1, WriteMode::Append, 0), plain).join(" "),
            "Look Delete Copy Look Announce Clear Write End Finished"
        );
        assert_eq!(steps(tombstone(1), plain).join(" "), "Look Clear Write End Finished");
    }

    #[test]
    fn whoever_comes_late_does_nothing_more() {
        let done_at = |n: usize| {
            move |i: usize, step: &Do| {
                if i >= n && matches!(step, Do::Look(_)) { Answer::Found(true) } else { plain(i, step) }
            }
        };
        let entry = commit(1, WriteMode::Overwrite, DELETE_BATCH + 1);
        assert_eq!(steps(entry.clone(), done_at(1)).join(" "), "Look End Before");
        assert_eq!(steps(entry.clone(), done_at(2)).join(" "), "Look Delete Copy Look End Before");
        assert_eq!(steps(entry, done_at(5)).join(" "), "Look Delete Copy Look Delete Look End Before");
        let append = commit(1, WriteMode::Append, 0);
        assert_eq!(
            steps(append, done_at(2)).join(" "),
            "Look Delete Copy Look End Before",
            "no `_SUCCESS` of the past"
        );
    }

    #[test]
    fn a_lost_file_is_damage_unless_somebody_finished() {
        for (done, want) in [(true, "Before"), (false, "Damaged(\"f\")")] {
            let answers = |i: usize, step: &Do| match step {
                Do::Copy => Answer::Gone("f".to_owned()),
                Do::Look(_) => Answer::Found(done && i > 1),
                _ => plain(i, step),
            };
            assert_eq!(steps(commit(1, WriteMode::Append, 0), answers).last().unwrap(), want);
        }
    }
}
