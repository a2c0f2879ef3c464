//! What do the queries ask?

/// One of the 22 queries.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// 1 to 22.
    pub number: u32,
    /// Its text.
    pub text: &'static str,
}

impl Query {
    /// How it is called, such as `q1`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("q{}", self.number)
    }
}

macro_rules! queries {
    ($($number:literal)*) => {
        &[$(Query { number: $number, text: include_str!(concat!("../queries/q", $number, ".sql")) }),*]
    };
}

/// All of them, in order.
pub const QUERIES: &[Query] = queries!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22);
