//! Cutting a page out of a list, and what its items look like.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::prepare::check;
use crate::wire::page::{Page, PageQuery};

const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: i64 = 100;

/// Whether a list begins with its oldest or its newest item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Ascending,
    Descending,
}

/// The number of items wanted.
///
/// # Errors
/// 400 if it is not 1 to 100.
pub(crate) fn limit(query: &PageQuery) -> Result<usize, ApiError> {
    let limit = check::integer("limit", query.limit, 1, MAX_LIMIT)?;
    Ok(limit.map_or(DEFAULT_LIMIT, |limit| limit as usize))
}

/// The order wanted.
///
/// # Errors
/// 400 if it is neither `asc` nor `desc`.
pub(crate) fn order(query: &PageQuery, default: Order) -> Result<Order, ApiError> {
    match query.order.as_deref() {
        None => Ok(default),
        Some("asc") => Ok(Order::Ascending),
        Some("desc") => Ok(Order::Descending),
        Some(other) => Err(ApiError::invalid_value("order", other, &["asc", "desc"])),
    }
}

/// A page of `items`, which are in ascending order.
///
/// # Errors
/// 400 for a query that makes no sense, or that begins after an item which is not there.
pub(crate) fn page(mut items: Vec<Value>, query: &PageQuery, default: Order) -> Result<Page, ApiError> {
    let limit = limit(query)?;
    if order(query, default)? == Order::Descending {
        items.reverse();
    }
    let first = match &query.after {
        None => 0,
        Some(after) => {
            1 + items.iter().position(|item| item["id"] == **after).ok_or_else(|| {
                let message = format!("Item with id '{after}' not found.");
                ApiError::invalid("after", "invalid_value", message)
            })?
        }
    };
    let rest = items.split_off(first);
    let has_more = rest.len() > limit;
    Ok(finish(rest.into_iter().take(limit).collect(), has_more))
}

/// The page that holds exactly these.
pub(crate) fn finish(data: Vec<Value>, has_more: bool) -> Page {
    let id = |item: Option<&Value>| item.and_then(|item| item["id"].as_str()).unwrap_or_default().to_owned();
    Page { object: "list", first_id: id(data.first()), last_id: id(data.last()), has_more, data }
}

/// A stored item as the API lists it.
pub(crate) fn listed(mut item: Value) -> Value {
    match item["type"].as_str() {
        Some("compaction") => {
            // What is sealed is kept open beside it, for the model only.
            if let Some(map) = item.as_object_mut() {
                map.retain(|key, _| ["id", "type", "encrypted_content"].contains(&key.as_str()));
            }
        }
        Some("reasoning") if item.get("summary").is_none() => item["summary"] = json!([]),
        Some("message") => {
            for part in item["content"].as_array_mut().into_iter().flatten() {
                if part["type"] == "output_text" && part.get("annotations").is_none() {
                    part["annotations"] = json!([]);
                    part["logprobs"] = json!([]);
                }
            }
        }
        _ => {}
    }
    item
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(query: &str) -> Result<(String, bool), ApiError> {
        let items = ["a", "b", "c"].map(|id| json!({"id": id})).to_vec();
        let query: PageQuery = serde_json::from_str(query).expect("a query");
        let page = page(items, &query, Order::Descending)?;
        Ok((page.data.iter().filter_map(|item| item["id"].as_str()).collect(), page.has_more))
    }

    #[test]
    fn pages_follow_each_other() {
        let cases = [
            ("{}", "cba", false),
            (r#"{"order": "asc"}"#, "abc", false),
            (r#"{"limit": 2}"#, "cb", true),
            (r#"{"limit": 2, "after": "b"}"#, "a", false),
            (r#"{"order": "asc", "limit": 1, "after": "a"}"#, "b", true),
            (r#"{"after": "a"}"#, "", false),
        ];
        for (query, expected, has_more) in cases {
            assert_eq!(ids(query), Ok((expected.to_owned(), has_more)), "{query}");
        }
        for query in [r#"{"limit": 0}"#, r#"{"limit": 101}"#, r#"{"order": "up"}"#, r#"{"after": "x"}"#] {
            assert!(matches!(ids(query), Err(ApiError::Invalid { .. })), "{query}");
        }
        let empty = page(Vec::new(), &PageQuery::default(), Order::Ascending).expect("a page");
        assert_eq!((empty.first_id.as_str(), empty.last_id.as_str(), empty.has_more), ("", "", false));
    }
}
