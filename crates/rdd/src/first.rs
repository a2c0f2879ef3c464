//! Which actions give the first rows of an order?

use std::ops::ControlFlow;

use crate::chain::{Chain, Label};
use crate::codec::{BodyReader, BodyWriter, Data};
use crate::compute::Task;
use crate::dataset::Rdd;
use crate::error::Error;
use crate::external::{Order, own};
use crate::function::{Function, assert_portable};
use crate::order::{ByFunction, Directed, Direction, SortBy};
use crate::stages::Action;

/// Rows by themselves.
#[derive(Debug, Clone, Copy)]
struct Itself;

impl<T: Data + Ord + Clone> SortBy<T> for Itself {
    type Key = T;

    const COMPUTED: bool = false;

    #[inline]
    fn with_key<R>(&self, row: &T, use_key: impl FnOnce(&T) -> R) -> R {
        use_key(row)
    }

    fn encode(&self, _: &mut BodyWriter) -> Result<(), Error> {
        Ok(())
    }

    fn decode(_: &mut BodyReader<'_>) -> Result<Self, Error> {
        Ok(Self)
    }
}

/// The first so many rows of an order that have come by.
struct Firsts<'a, T, O> {
    order: &'a O,
    wanted: usize,
    /// Up to twice as many as wanted: choosing among them then costs little for each.
    rows: Vec<T>,
    /// Whether the row at `wanted - 1` is the last that counts so far.
    chosen: bool,
}

impl<'a, T, O: Order<T>> Firsts<'a, T, O> {
    fn new(order: &'a O, wanted: usize) -> Self {
        Self { order, wanted, rows: Vec::new(), chosen: false }
    }

    /// Whether a row may be among them.
    #[inline]
    fn admits(&self, row: &T) -> bool {
        self.wanted > 0 && !(self.chosen && self.order.compare(row, &self.rows[self.wanted - 1]).is_ge())
    }

    fn push(&mut self, row: T) {
        self.rows.push(row);
        if self.rows.len() >= self.wanted.saturating_mul(2) {
            self.choose();
        }
    }

    fn choose(&mut self) {
        // A stable sort: of equal rows those that came first are chosen.
        self.rows.sort_by(|a, b| self.order.compare(a, b));
        self.rows.truncate(self.wanted);
        self.chosen = self.rows.len() == self.wanted;
    }

    fn finish(mut self) -> Vec<T> {
        self.choose();
        self.rows
    }
}

#[derive(Clone)]
struct TakeOrdered<B> {
    order: Directed<B>,
    rows: usize,
}

impl<T: Data, B: SortBy<T>> Action<T> for TakeOrdered<B> {
    type Output = Vec<T>;

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        body.value(&(self.order.direction, self.rows))?;
        self.order.by.encode(body)
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        let (direction, rows) = body.value()?;
        Ok(Self { order: Directed { by: B::decode(body)?, direction }, rows })
    }

    fn run<I: Iterator<Item = T>>(&self, task: &Task, _: u32, rows: I) -> Result<Vec<T>, Error> {
        let mut firsts = Firsts::new(&self.order, self.rows);
        rows.for_each(|row| {
            if firsts.admits(&row) {
                match own(row) {
                    Ok(row) => firsts.push(row),
                    Err(error) => task.fail(error),
                }
            }
        });
        let rows = firsts.finish();
        task.count(|metrics| metrics.output_rows += rows.len() as u64);
        Ok(rows)
    }
}

/// Rows of a dataset, partition by partition: the next one is computed when it is asked for.
struct LocalRows<T, C> {
    rdd: Rdd<T, C>,
    label: Label,
    next: u32,
    ready: std::vec::IntoIter<T>,
}

impl<T: Data, C: Chain<Item = T>> Iterator for LocalRows<T, C> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.ready.next() {
                return Some(Ok(row));
            }
            if self.next >= self.rdd.partitions() {
                return None;
            }
            let partition = self.next;
            self.next += 1;
            match self.rdd.collect_partitions(self.label, [partition]) {
                Ok(rows) => self.ready = rows.into_iter(),
                Err(error) => {
                    self.next = u32::MAX;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl<T: Data, C: Chain<Item = T>> Rdd<T, C> {
    fn ordered<B: SortBy<T>>(&self, by: B, direction: Direction, rows: usize, label: Label) -> Result<Vec<T>, Error> {
        if rows == 0 {
            return Ok(Vec::new());
        }
        let order = Directed { by, direction };
        // Whole partitions are merged as they come, so that the program never holds more than two of them; equal rows stay
        // in the order of partitions.
        let action = TakeOrdered { order: order.clone(), rows };
        let mut parts: Vec<Option<Vec<T>>> = (0..self.partitions()).map(|_| None).collect();
        self.run_action(label, action, 0..self.partitions(), |partition, rows| {
            parts[partition as usize] = Some(rows);
            Ok(ControlFlow::Continue(()))
        })?;
        let mut firsts = Firsts::new(&order, rows);
        for row in parts.into_iter().flatten().flatten() {
            if firsts.admits(&row) {
                firsts.push(row);
            }
        }
        Ok(firsts.finish())
    }

    /// The so many smallest rows, smallest first.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn take_ordered(&self, rows: usize) -> Result<Vec<T>, Error>
    where
        T: Ord + Clone,
    {
        self.ordered(Itself, Direction::Ascending, rows, Label::here("take_ordered"))
    }

    /// The so many rows of which a function makes the smallest keys, smallest first.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn take_ordered_by<K: Data + Ord + Clone, F: Fn(&T) -> K + Function>(
        &self,
        rows: usize,
        key: F,
    ) -> Result<Vec<T>, Error> {
        assert_portable::<F>();
        self.ordered(ByFunction(key), Direction::Ascending, rows, Label::here("take_ordered"))
    }

    /// The so many largest rows, largest first.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn top(&self, rows: usize) -> Result<Vec<T>, Error>
    where
        T: Ord + Clone,
    {
        self.ordered(Itself, Direction::Descending, rows, Label::here("top"))
    }

    /// The so many rows of which a function makes the largest keys, largest first.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn top_by<K: Data + Ord + Clone, F: Fn(&T) -> K + Function>(
        &self,
        rows: usize,
        key: F,
    ) -> Result<Vec<T>, Error> {
        assert_portable::<F>();
        self.ordered(ByFunction(key), Direction::Descending, rows, Label::here("top"))
    }

    /// The smallest row; none of none.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn min(&self) -> Result<Option<T>, Error>
    where
        T: Ord + Clone,
    {
        Ok(self.ordered(Itself, Direction::Ascending, 1, Label::here("min"))?.pop())
    }

    /// The largest row; none of none.
    ///
    /// # Errors
    /// When the job does not succeed.
    #[track_caller]
    pub fn max(&self) -> Result<Option<T>, Error>
    where
        T: Ord + Clone,
    {
        Ok(self.ordered(Itself, Direction::Descending, 1, Label::here("max"))?.pop())
    }

    /// Whether there is no row. Computes partitions until one has a row.
    ///
    /// # Errors
    /// When a job does not succeed.
    #[track_caller]
    pub fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.take(1)?.is_empty())
    }

    /// All rows, one partition at a time: each is computed when the one before has been used up, and only one is held.
    /// The first error is the last item.
    #[track_caller]
    pub fn to_local_iterator(&self) -> impl Iterator<Item = Result<T, Error>> + use<T, C> {
        LocalRows { rdd: self.clone(), label: Label::here("to_local_iterator"), next: 0, ready: Vec::new().into_iter() }
    }
}
