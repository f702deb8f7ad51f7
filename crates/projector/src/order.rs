//! The order of a list and the beginning of a page, in SQL.

use crate::columns::big;
use reveille_domain::rows::{PageLimit, SortValue};
use sqlx::{Postgres, QueryBuilder, query_builder::Separated};

/// An order: by an expression, if any, then by the key, all in one direction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) column: Option<&'static str>,
    pub(crate) key: &'static [&'static str],
    pub(crate) descending: bool,
}

/// Ends an insertion: a row whose `key` exists, which begins `columns`, is replaced.
pub(crate) fn replace_existing(sql: &mut QueryBuilder<'_, Postgres>, key: &str, columns: &str) {
    let rest = columns.split(", ").skip(key.split(", ").count());
    let updates = rest.map(|column| format!("{column} = excluded.{column}"));
    let updates = updates.collect::<Vec<_>>().join(", ");
    sql.push(format!(" ON CONFLICT ({key}) DO UPDATE SET {updates}"));
}

impl Order {
    /// Selects only rows after a position; `key` binds the position's key, column by column.
    pub(crate) fn after<'a>(
        self,
        sql: &mut QueryBuilder<'a, Postgres>,
        value: SortValue,
        key: impl FnOnce(&mut Separated<'_, 'a, Postgres, &str>),
    ) {
        sql.push(" AND (").push(self.columns("")).push(") ");
        sql.push(if self.descending { "< (" } else { "> (" });
        let mut values = sql.separated(", ");
        match value {
            SortValue::None => {}
            SortValue::Word(word) => {
                values.push_bind(word);
            }
            SortValue::Number(number) => {
                values.push_bind(big(number));
            }
        }
        key(&mut values);
        sql.push(")");
    }

    /// Orders the rows, and selects one more than the page holds.
    pub(crate) fn by(self, sql: &mut QueryBuilder<'_, Postgres>, limit: PageLimit) {
        sql.push(" ORDER BY ");
        sql.push(self.columns(if self.descending { " DESC" } else { "" }));
        sql.push(" LIMIT ").push_bind(big(limit.rows() as u64 + 1));
    }

    fn columns(self, direction: &str) -> String {
        let columns = self.column.iter().chain(self.key);
        let columns = columns.map(|column| format!("{column}{direction}"));
        columns.collect::<Vec<_>>().join(", ")
    }
}
