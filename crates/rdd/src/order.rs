//! Which operations put rows in order?

use std::cmp::Ordering;

use crate::external::{Order, permute};
use crate::sort_key;

/// Pairs by their key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByKey {
    pub(crate) descending: bool,
}

fn directed(order: Ordering, descending: bool) -> Ordering {
    if descending { order.reverse() } else { order }
}

fn prefix<K: 'static>(key: &K, descending: bool) -> u64 {
    let prefix = sort_key::prefix(key);
    if descending { !prefix } else { prefix }
}

impl<K: Ord + 'static, V> Order<(K, V)> for ByKey {
    #[inline]
    fn compare(&self, a: &(K, V), b: &(K, V)) -> Ordering {
        directed(a.0.cmp(&b.0), self.descending)
    }

    #[inline]
    fn prefix(&self, row: &(K, V)) -> u64 {
        prefix(&row.0, self.descending)
    }

    fn is_exact(&self) -> bool {
        sort_key::is_exact::<K>()
    }
}

/// Rows by what a function makes of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByFunction<F> {
    function: F,
    descending: bool,
}

impl<F> ByFunction<F> {
    pub(crate) fn new(function: F, descending: bool) -> Self {
        Self { function, descending }
    }
}

impl<T, K: Ord + 'static, F: Fn(&T) -> K> Order<T> for ByFunction<F> {
    #[inline]
    fn compare(&self, a: &T, b: &T) -> Ordering {
        directed((self.function)(a).cmp(&(self.function)(b)), self.descending)
    }

    #[inline]
    fn prefix(&self, row: &T) -> u64 {
        prefix(&(self.function)(row), self.descending)
    }

    fn is_exact(&self) -> bool {
        sort_key::is_exact::<K>()
    }

    /// Keys that have no number are made once, not for every comparison.
    fn sort(&self, rows: &mut [T]) {
        if sort_key::has_prefix::<K>() {
            return self.sort_by_prefix(rows);
        }
        let mut places: Vec<(K, u32)> = rows.iter().map(&self.function).zip(0..).collect();
        places.sort_unstable_by(|a, b| directed(a.0.cmp(&b.0), self.descending).then_with(|| a.1.cmp(&b.1)));
        permute(rows, &mut places);
    }
}
