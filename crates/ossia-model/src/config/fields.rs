//! Typed access to the fields of a JSON object, with errors that name the field.

use serde_json::{Map, Value};

use crate::ModelError;

/// A JSON object and the name it has in its parent (empty for the document).
pub(super) struct Fields<'a> {
    parent: &'a str,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Views `value` as an object called `parent`.
    pub(super) fn new(parent: &'a str, value: &'a Value) -> Result<Self, ModelError> {
        match value.as_object() {
            Some(object) => Ok(Self { parent, object }),
            None => {
                let field = if parent.is_empty() { "(document)" } else { parent };
                Err(ModelError::Config {
                    field: field.to_owned(),
                    message: format!("is {value}, expected an object"),
                })
            }
        }
    }

    /// The field, unless absent or null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// An error about this object's field `name`.
    pub(super) fn error(&self, name: &str, message: impl Into<String>) -> ModelError {
        let field = if self.parent.is_empty() { name.to_owned() } else { format!("{}.{name}", self.parent) };
        ModelError::Config { field, message: message.into() }
    }

    /// `convert`ed field, `None` if absent, an error saying what was `expected` if it does not convert.
    fn typed<T>(
        &self,
        name: &str,
        expected: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(self.error(name, format!("is {value}, expected {expected}"))),
        }
    }

    /// A whole number from 1 to 2^32 - 1, if present. The bound keeps products of a few of them in u64.
    pub(super) fn optional_count(&self, name: &str) -> Result<Option<usize>, ModelError> {
        self.typed(name, "a whole number from 1 to 4294967295", |value| {
            value.as_u64().filter(|&n| n > 0).and_then(|n| u32::try_from(n).ok()).map(|n| n as usize)
        })
    }

    /// A whole number of at least 1.
    pub(super) fn count(&self, name: &str) -> Result<usize, ModelError> {
        self.optional_count(name)?.ok_or_else(|| self.error(name, "is missing"))
    }

    /// A finite number above 0, if present.
    pub(super) fn optional_positive(&self, name: &str) -> Result<Option<f64>, ModelError> {
        self.typed(name, "a number above 0", |value| value.as_f64().filter(|x| x.is_finite() && *x > 0.0))
    }

    /// A finite number above 0.
    pub(super) fn positive(&self, name: &str) -> Result<f64, ModelError> {
        self.optional_positive(name)?.ok_or_else(|| self.error(name, "is missing"))
    }

    /// True or false, if present.
    pub(super) fn optional_bool(&self, name: &str) -> Result<Option<bool>, ModelError> {
        self.typed(name, "true or false", Value::as_bool)
    }

    /// A string, if present.
    pub(super) fn optional_str(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        self.typed(name, "a string", Value::as_str)
    }

    /// A token id or a list of them; empty if absent.
    pub(super) fn token_ids(&self, name: &str) -> Result<Vec<u32>, ModelError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = self.typed(name, "a token id or a list of them", |value| match value.as_array() {
            Some(values) => values.iter().map(id).collect::<Option<Vec<_>>>(),
            None => id(value).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }
}
