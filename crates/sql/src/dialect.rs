//! Which statements of Spark's are said in DataFusion's words?

use datafusion::common::Result;
use datafusion::dataframe::DataFrame;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::{CopyToSource, Statement};
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::dialect_from_str;

use crate::hint;

use crate::lateral;

/// Plans a statement as `SessionContext::sql` does, and some more that Spark has. Statements that define or set something are
/// carried out.
///
/// # Errors
/// The text does not parse, or names what does not exist.
pub async fn plan(session: &SessionContext, text: &str) -> Result<DataFrame> {
    let state = session.state();
    let dialect = state.config().options().sql_parser.dialect;
    let mut statement = state.sql_to_statement(text, &dialect)?;
    if let Some(other) = in_other_words(&statement) {
        statement = state.sql_to_statement(&other, &dialect)?;
    }
    rewrite(&mut statement);
    let plan = state.statement_to_plan(statement).await?;
    let plan = match dialect_from_str(dialect) {
        Some(dialect) => hint::mark(plan, &hint::named(text, dialect.as_ref()))?,
        None => plan,
    };
    session.execute_logical_plan(plan).await
}

/// What DataFusion calls what a statement wants to see.
fn in_other_words(statement: &Statement) -> Option<String> {
    let Statement::Statement(statement) = statement else { return None };
    let schemas = |like: &str| {
        format!(
            "SELECT DISTINCT schema_name AS namespace FROM information_schema.schemata WHERE schema_name LIKE {like} ORDER BY 1"
        )
    };
    match statement.as_ref() {
        ast::Statement::ShowDatabases { show_options, .. } | ast::Statement::ShowSchemas { show_options, .. } => {
            match &show_options.filter_position {
                None => Some(schemas("'%'")),
                Some(
                    ast::ShowStatementFilterPosition::Infix(ast::ShowStatementFilter::Like(like))
                    | ast::ShowStatementFilterPosition::Suffix(ast::ShowStatementFilter::Like(like)),
                ) => Some(schemas(&ast::Value::SingleQuotedString(like.clone()).to_string())),
                Some(_) => None,
            }
        }
        ast::Statement::ExplainTable { hive_format: Some(_), table_name, .. } => Some(format!("DESCRIBE {table_name}")),
        _ => None,
    }
}

/// Lateral views; `CREATE TEMPORARY VIEW`: every view is of its session alone.
fn rewrite(statement: &mut Statement) {
    match statement {
        Statement::Statement(statement) => {
            if let ast::Statement::CreateView(view) = statement.as_mut() {
                view.temporary = false;
            }
            lateral::rewrite(statement.as_mut());
        }
        Statement::Explain(explain) => rewrite(&mut explain.statement),
        Statement::CopyTo(copy) => {
            if let CopyToSource::Query(query) = &mut copy.source {
                lateral::rewrite(query.as_mut());
            }
        }
        Statement::CreateExternalTable(_) | Statement::Reset(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::common::config::Dialect;
    use datafusion::prelude::SessionConfig;

    use super::*;
    use crate::lateral::LateralViews;

    fn session(dialect: Dialect) -> SessionContext {
        let mut config = SessionConfig::new().with_information_schema(true);
        config.options_mut().sql_parser.dialect = dialect;
        let session = SessionContext::new_with_config(config);
        session.state_ref().write().register_relation_planner(Arc::new(LateralViews)).unwrap();
        session
    }

    async fn rows(session: &SessionContext, text: &str) -> Result<String> {
        plan(session, text).await?.to_string().await
    }

    /// The cells of an answer, without its frame.
    async fn cells(session: &SessionContext, text: &str) -> Vec<String> {
        let answer = rows(session, text).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        let lines = answer.lines().filter(|line| line.starts_with('|')).skip(1);
        lines
            .map(|line| line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join(" "))
            .collect()
    }

    #[tokio::test]
    async fn a_temporary_view_is_a_view() {
        let session = SessionContext::new();
        for text in ["CREATE TEMPORARY VIEW one AS SELECT 1 AS n", "CREATE OR REPLACE TEMP VIEW one AS SELECT 2 AS n"] {
            plan(&session, text).await.unwrap();
        }
        let rows = rows(&session, "SELECT n FROM one").await.unwrap();
        assert!(rows.contains("| 2 |"), "{rows}");
        assert!(plan(&session, "CREATE TEMPORARY VIEW one AS SELECT 3 AS n").await.is_err(), "it exists");
    }

    #[tokio::test]
    async fn lateral_views_give_a_row_for_each_element() {
        for dialect in [Dialect::Generic, Dialect::Spark] {
            let session = session(dialect);
            let table = "CREATE VIEW t AS SELECT * FROM (VALUES (1, make_array(10, 20)), (2, make_array()), (3, NULL)) AS t(id, xs)";
            plan(&session, table).await.unwrap();
            for (query, wanted) in [
                ("SELECT id, x FROM t LATERAL VIEW explode(xs) v AS x ORDER BY x", &["1 10", "1 20"][..]),
                (
                    "SELECT t.id, v.x FROM t LATERAL VIEW OUTER explode(xs) v AS x ORDER BY 1, 2",
                    &["1 10", "1 20", "2", "3"],
                ),
                ("SELECT id, v.col FROM t LATERAL VIEW explode(xs) v WHERE col > 10", &["1 20"]),
                ("SELECT p, x FROM t LATERAL VIEW posexplode(xs) v AS p, x ORDER BY p", &["0 10", "1 20"]),
                (
                    "SELECT x, y FROM t LATERAL VIEW explode(xs) a AS x LATERAL VIEW explode(make_array(x, id)) b AS y ORDER BY x, y",
                    &["10 1", "10 10", "20 1", "20 20"],
                ),
                (
                    "SELECT k, w FROM t LATERAL VIEW explode(map(make_array('a'), make_array(id))) m AS k, w ORDER BY w",
                    &["a 1", "a 2", "a 3"],
                ),
                (
                    "SELECT count(*) FROM t JOIN t AS u ON t.id = u.id LATERAL VIEW explode(u.xs) v AS x WHERE t.id = 1",
                    &["2"],
                ),
                ("SELECT sum(x) FROM (SELECT x FROM t LATERAL VIEW explode(xs) v AS x)", &["30"]),
                ("SELECT id, explode(xs) AS x FROM t ORDER BY x", &["1 10", "1 20"]),
                ("WITH w AS (SELECT explode(xs) FROM t) SELECT col FROM w ORDER BY 1", &["10", "20"]),
            ] {
                assert_eq!(cells(&session, query).await, wanted, "{query}");
            }
            for (query, wanted) in [
                ("SELECT * FROM t LATERAL VIEW explode(id) v AS x", "wants an array or a map, not Int64"),
                ("SELECT * FROM t LATERAL VIEW inline(xs) v AS x", "`inline` is no generator that is known"),
                ("SELECT * FROM t LATERAL VIEW explode(xs) v AS x, y", "explode gives 1 columns, not 2"),
            ] {
                let error = rows(&session, query).await.unwrap_err().to_string();
                assert!(error.contains(wanted), "{query}: {error}");
            }
        }
    }

    #[tokio::test]
    async fn what_there_is_can_be_shown() {
        for dialect in [Dialect::Generic, Dialect::Spark] {
            let session = session(dialect);
            plan(&session, "CREATE VIEW t AS SELECT 1 AS id").await.unwrap();
            assert_eq!(cells(&session, "SHOW DATABASES").await, ["public"]);
            assert_eq!(cells(&session, "SHOW SCHEMAS LIKE 'pub%'").await, ["public"]);
            assert!(cells(&session, "SHOW TABLES").await.contains(&"datafusion public t VIEW".to_owned()));
            assert_eq!(cells(&session, "SHOW COLUMNS FROM t").await, ["datafusion public t id Int64 NO"]);
            assert!(!cells(&session, "SHOW FUNCTIONS LIKE 'date_tru%'").await.is_empty());
            for describe in ["DESCRIBE t", "DESC t", "DESCRIBE EXTENDED t", "DESCRIBE FORMATTED t"] {
                assert_eq!(cells(&session, describe).await, ["id Int64 NO"], "{describe}");
            }
        }
    }
}
