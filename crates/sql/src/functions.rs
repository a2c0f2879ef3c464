//! Which functions may a query use, and how do an executor's get to be the same as the driver's?
//!
//! Built-in functions are in every executable and travel by name. A program's own functions travel as a reference to the
//! code that makes them, by a [`Carrier`]: this crate does not know how.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use datafusion::execution::SessionStateDefaults;
use datafusion::execution::config::SessionConfig;
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, WindowUDF};
use model::Failure;

use crate::single::SingleValue;

/// The kinds of functions that programs register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FunctionKind {
    /// A value from each row.
    Scalar,
    /// A value from a group of rows.
    Aggregate,
    /// A value for each row from those around it.
    Window,
}

/// A program's own function.
#[derive(Debug, Clone)]
pub enum Function {
    /// A value from each row.
    Scalar(Arc<ScalarUDF>),
    /// A value from a group of rows.
    Aggregate(Arc<AggregateUDF>),
    /// A value for each row from those around it.
    Window(Arc<WindowUDF>),
}

/// Takes a program's own functions to executors.
pub trait Carrier: Debug + Send + Sync {
    /// What an executor needs to make the function of this name, if it was registered so that executors can.
    fn encode(&self, kind: FunctionKind, name: &str) -> Option<Bytes>;

    /// Makes the function.
    ///
    /// # Errors
    /// The bytes are of another executable.
    fn decode(&self, bytes: &[u8]) -> Result<Function, Failure>;
}

/// For programs without functions of their own.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFunctions;

impl Carrier for NoFunctions {
    fn encode(&self, _: FunctionKind, _: &str) -> Option<Bytes> {
        None
    }

    fn decode(&self, _: &[u8]) -> Result<Function, Failure> {
        Err(Failure::new(model::FailureKind::Internal, "decode a function: this executor has none"))
    }
}

/// Whose function it is that a name means, where DataFusion and Spark both have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefer {
    DataFusion,
    Spark,
}

impl Prefer {
    /// Of a session: its configuration carries it, so that executors do the same.
    pub(crate) fn of(config: &SessionConfig) -> Self {
        config.get_extension::<Self>().map_or(Self::DataFusion, |prefer| *prefer)
    }

    fn order<T>(self, datafusion: Vec<T>, spark: Vec<T>) -> impl Iterator<Item = T> {
        let (first, second) = match self {
            Self::DataFusion => (datafusion, spark),
            Self::Spark => (spark, datafusion),
        };
        first.into_iter().chain(second)
    }
}

/// The functions that every executable has.
#[derive(Debug)]
pub(crate) struct BuiltIn {
    pub(crate) scalar: HashMap<String, Arc<ScalarUDF>>,
    pub(crate) higher_order: HashMap<String, Arc<HigherOrderUDF>>,
    pub(crate) aggregate: HashMap<String, Arc<AggregateUDF>>,
    pub(crate) window: HashMap<String, Arc<WindowUDF>>,
    /// Each function once, those that are preferred last: in a session the last of a name or alias stays.
    pub(crate) registered: Registered,
}

/// Functions in the order in which a session hears of them.
#[derive(Debug, Default)]
pub(crate) struct Registered {
    pub(crate) scalar: Vec<Arc<ScalarUDF>>,
    pub(crate) aggregate: Vec<Arc<AggregateUDF>>,
    pub(crate) window: Vec<Arc<WindowUDF>>,
}

impl BuiltIn {
    /// DataFusion's functions and Spark's. Of those that both have, [`Prefer`] says which.
    pub(crate) fn get(prefer: Prefer) -> &'static Self {
        static DATAFUSION: LazyLock<BuiltIn> = LazyLock::new(|| BuiltIn::new(Prefer::DataFusion));
        static SPARK: LazyLock<BuiltIn> = LazyLock::new(|| BuiltIn::new(Prefer::Spark));
        match prefer {
            Prefer::DataFusion => &DATAFUSION,
            Prefer::Spark => &SPARK,
        }
    }

    fn new(prefer: Prefer) -> Self {
        let mut all = Self {
            scalar: HashMap::new(),
            higher_order: HashMap::new(),
            aggregate: HashMap::new(),
            window: HashMap::new(),
            registered: Registered::default(),
        };
        // The first of a name stays.
        let scalar = SessionStateDefaults::default_scalar_functions();
        for function in prefer.order(scalar, datafusion_spark::all_default_scalar_functions()) {
            if all.scalar.get(function.name()).is_some_and(|known| known.name() == function.name()) {
                continue; // a namesake is preferred, and a function travels by its name
            }
            for name in names(function.name(), function.aliases()) {
                all.scalar.entry(name).or_insert_with(|| Arc::clone(&function));
            }
            all.registered.scalar.insert(0, function);
        }
        for function in SessionStateDefaults::default_higher_order_functions() {
            for name in names(function.name(), function.aliases()) {
                all.higher_order.entry(name).or_insert_with(|| Arc::clone(&function));
            }
        }
        let mut aggregate = SessionStateDefaults::default_aggregate_functions();
        aggregate.push(Arc::new(SingleValue::new().into()));
        for function in prefer.order(aggregate, datafusion_spark::all_default_aggregate_functions()) {
            if all.aggregate.get(function.name()).is_some_and(|known| known.name() == function.name()) {
                continue; // a namesake is preferred, and a function travels by its name
            }
            for name in names(function.name(), function.aliases()) {
                all.aggregate.entry(name).or_insert_with(|| Arc::clone(&function));
            }
            all.registered.aggregate.insert(0, function);
        }
        let window = SessionStateDefaults::default_window_functions();
        for function in prefer.order(window, datafusion_spark::all_default_window_functions()) {
            if all.window.get(function.name()).is_some_and(|known| known.name() == function.name()) {
                continue; // a namesake is preferred, and a function travels by its name
            }
            for name in names(function.name(), function.aliases()) {
                all.window.entry(name).or_insert_with(|| Arc::clone(&function));
            }
            all.registered.window.insert(0, function);
        }
        all
    }
}

fn names<'a>(name: &'a str, aliases: &'a [String]) -> impl Iterator<Item = String> + 'a {
    std::iter::once(name.to_owned()).chain(aliases.iter().cloned())
}

#[cfg(test)]
mod tests {
    use std::any::Any;

    use datafusion::execution::SessionStateBuilder;

    use super::*;

    /// What a session plans with is what an executor runs, by every name.
    #[test]
    fn a_session_and_an_executor_mean_the_same_function() {
        for prefer in [Prefer::DataFusion, Prefer::Spark] {
            let all = BuiltIn::get(prefer);
            let state = SessionStateBuilder::new_with_default_features()
                .with_scalar_functions(all.registered.scalar.clone())
                .with_aggregate_functions(all.registered.aggregate.clone())
                .with_window_functions(all.registered.window.clone())
                .build();
            for (name, function) in state.scalar_functions() {
                // Some are made anew for the session's options.
                let kind = |function: &ScalarUDF| (function.inner().as_ref() as &dyn Any).type_id();
                assert_eq!(kind(function), kind(&all.scalar[name]), "{prefer:?} {name}");
            }
            for (name, function) in state.aggregate_functions() {
                assert!(Arc::ptr_eq(function, &all.aggregate[name]), "{prefer:?} {name}");
            }
            for (name, function) in state.window_functions() {
                assert!(Arc::ptr_eq(function, &all.window[name]), "{prefer:?} {name}");
            }
        }
    }
}
