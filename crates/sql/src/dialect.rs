//! Which statements of Spark's are said in DataFusion's words?

use datafusion::common::Result;
use datafusion::dataframe::DataFrame;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;

/// Plans a statement as `SessionContext::sql` does, and some more that Spark has. Statements that define or set something are
/// carried out.
///
/// # Errors
/// The text does not parse, or names what does not exist.
pub async fn plan(session: &SessionContext, text: &str) -> Result<DataFrame> {
    let state = session.state();
    let dialect = state.config().options().sql_parser.dialect;
    let mut statement = state.sql_to_statement(text, &dialect)?;
    rewrite(&mut statement);
    let plan = state.statement_to_plan(statement).await?;
    session.execute_logical_plan(plan).await
}

/// `CREATE TEMPORARY VIEW`: every view is of its session alone.
fn rewrite(statement: &mut Statement) {
    if let Statement::Statement(statement) = statement
        && let ast::Statement::CreateView(view) = statement.as_mut()
    {
        view.temporary = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_temporary_view_is_a_view() {
        let session = SessionContext::new();
        for text in ["CREATE TEMPORARY VIEW one AS SELECT 1 AS n", "CREATE OR REPLACE TEMP VIEW one AS SELECT 2 AS n"] {
            plan(&session, text).await.unwrap();
        }
        let rows = plan(&session, "SELECT n FROM one").await.unwrap().to_string().await.unwrap();
        assert!(rows.contains("| 2 |"), "{rows}");
        assert!(plan(&session, "CREATE TEMPORARY VIEW one AS SELECT 3 AS n").await.is_err(), "it exists");
    }
}
