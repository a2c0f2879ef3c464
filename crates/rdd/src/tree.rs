//! How are many partial results combined without bringing all of them to the program?

use crate::chain::{Chain, Label};
use crate::codec::Data;
use crate::dataset::Rdd;
use crate::error::Error;
use crate::function::{Captured, Function, assert_portable};

impl<T: 'static, C: Chain<Item = T>> Rdd<T, C> {
    /// One value of all rows, as [`aggregate`](Self::aggregate) makes it, but combined on executors in `depth` steps, the
    /// last of which is the program's: for large values of many partitions.
    ///
    /// # Errors
    /// When the job does not succeed, or `depth` is 0.
    #[track_caller]
    pub fn tree_aggregate<A, F, G>(&self, zero: A, add: F, merge: G, depth: u32) -> Result<A, Error>
    where
        A: Data + Clone,
        F: Fn(A, T) -> A + Function,
        G: Fn(A, A) -> A + Function,
    {
        assert_portable::<F>();
        assert_portable::<G>();
        let label = Label::here("tree_aggregate");
        let start = Captured::new(zero.clone());
        // Two steps, since a function may capture one environment: here the start, in the next one that of `add`.
        let starts = self.map_partitions_labelled(label, false, move |_, rows| {
            let start: &A = Captured::get(&start);
            std::iter::once((start.clone(), rows))
        });
        let parts = starts.map(move |(start, rows)| rows.fold(start, &add as &F)).erase();
        Ok(combine(parts, merge.clone(), depth, label)?.into_iter().reduce(merge).unwrap_or(zero))
    }

    /// One row of all, as [`reduce`](Self::reduce) makes it, but combined on executors in `depth` steps, the last of which
    /// is the program's.
    ///
    /// # Errors
    /// When the job does not succeed, or `depth` is 0.
    #[track_caller]
    pub fn tree_reduce<F: Fn(T, T) -> T + Function>(&self, function: F, depth: u32) -> Result<Option<T>, Error>
    where
        T: Data,
    {
        assert_portable::<F>();
        let label = Label::here("tree_reduce");
        let reduce = function.clone();
        let parts = self.map_partitions_labelled(label, false, move |_, rows| rows.reduce(&reduce as &F)).erase();
        Ok(combine(parts, function.clone(), depth, label)?.into_iter().reduce(function))
    }
}

/// The values of few partitions, each combined of some of these.
fn combine<A: Data, G: Fn(A, A) -> A + Function>(
    mut parts: Rdd<A>,
    merge: G,
    depth: u32,
    label: Label,
) -> Result<Vec<A>, Error> {
    if depth == 0 {
        return Err(Error::Invalid(format!("{label}: combine in 0 steps")));
    }
    let mut count = parts.partitions();
    let scale = (f64::from(count).powf(1.0 / f64::from(depth)).ceil() as u32).max(2);
    // As long as a step leaves the program less to combine than it costs (Spark's rule).
    while count > scale + count.div_ceil(scale) {
        count /= scale;
        let groups = Captured::new(count);
        let numbered = parts.map_partitions_labelled(label, false, move |partition, rows| {
            let groups = *Captured::get(&groups);
            rows.map(move |value| (partition % groups, value))
        });
        parts = numbered.reduce_by_key_into(merge.clone(), count).values().erase();
    }
    parts.collect_partitions(label, 0..parts.partitions())
}
