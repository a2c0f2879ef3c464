//! How does an operator stop that computes for long without giving a row?
//!
//! A task looks whether it was cancelled between two batches. A nested-loop join looks at every pair of rows before it gives
//! the next batch, which can take hours: its filter looks, too, as often as it is evaluated.

use std::cell::RefCell;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::NestedLoopJoinExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use model::{Failure, FailureKind};
use tokio_util::sync::CancellationToken;

use crate::read::downcast;

thread_local! {
    /// The token of the task that this thread computes.
    static TASK: RefCell<Option<CancellationToken>> = const { RefCell::new(None) };
}

/// The current thread computes a task, until this is dropped.
pub(crate) struct Computing(());

impl Computing {
    pub(crate) fn new(cancel: &CancellationToken) -> Self {
        TASK.set(Some(cancel.clone()));
        Self(())
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        TASK.set(None);
    }
}

/// The failure of a task that was cancelled.
pub(crate) fn cancelled() -> datafusion::common::DataFusionError {
    crate::error::wrap(Failure::new(FailureKind::Cancelled, "cancelled"))
}

/// The plan with joins that look whether the task was cancelled.
pub(crate) fn look_in_joins(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let looking = plan.transform_up(|node| {
        let Some(join) = downcast::<NestedLoopJoinExec>(&node) else { return Ok(Transformed::no(node)) };
        let Some(filter) = join.filter() else { return Ok(Transformed::no(node)) };
        let looks = Arc::new(Looks { expression: Arc::clone(filter.expression()) });
        let filter = JoinFilter::new(looks, filter.column_indices().to_vec(), Arc::clone(filter.schema()));
        let (left, right) = (Arc::clone(join.left()), Arc::clone(join.right()));
        let projection = join.projection().as_ref().map(|columns| columns.to_vec());
        let join = NestedLoopJoinExec::try_new(left, right, Some(filter), join.join_type(), projection)?;
        Ok(Transformed::yes(Arc::new(join) as Arc<dyn ExecutionPlan>))
    });
    Ok(looking?.data)
}

/// Its expression, unless the task was cancelled.
#[derive(Debug, Eq)]
struct Looks {
    expression: Arc<dyn PhysicalExpr>,
}

impl PartialEq for Looks {
    fn eq(&self, other: &Self) -> bool {
        self.expression.eq(&other.expression)
    }
}

impl Hash for Looks {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expression.hash(state);
    }
}

impl fmt::Display for Looks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression.fmt(f)
    }
}

impl PhysicalExpr for Looks {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.expression.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.expression.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.expression.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        if TASK.with_borrow(|task| task.as_ref().is_some_and(CancellationToken::is_cancelled)) {
            return Err(cancelled());
        }
        self.expression.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.expression]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match children.pop() {
            Some(expression) => Ok(Arc::new(Self { expression })),
            None => internal_err!("an expression was lost"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression.fmt_sql(f)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::physical_plan::collect;
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn a_join_stops_before_it_has_a_row() {
        let session = SessionContext::new();
        let text = "SELECT count(*) FROM range(1000) a JOIN range(1000) b ON a.value * b.value < -1";
        let plan = session.sql(text).await.unwrap().create_physical_plan().await.unwrap();
        let plan = look_in_joins(plan).unwrap();
        let cancel = CancellationToken::new();
        let computing = Computing::new(&cancel);
        let rows = collect(Arc::clone(&plan), session.task_ctx()).await.unwrap();
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 1, "the same answer while nobody cancels");

        cancel.cancel();
        let plan = datafusion::physical_plan::execution_plan::reset_plan_states(plan).unwrap();
        let stopped = collect(plan, session.task_ctx()).await.unwrap_err();
        assert!(stopped.to_string().contains("cancelled"), "{stopped}");
        drop(computing);
    }
}
