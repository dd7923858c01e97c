//! Options that are a list of `key=value` fields, such as `--output type=oci,dest=image.tar`.
//!
//! As in docker, the list is one line of CSV: a field with a comma in it stands in double quotes,
//! and a double quote inside it is doubled.

/// The fields of one option, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(Vec<(String, Option<String>)>);

/// Why an option's fields cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FieldsError {
    #[error("{0:?}: a quoted field has no closing quote")]
    OpenQuote(String),
    #[error("{text:?}: unexpected field {field:?} (known: {known})")]
    Unknown {
        text: String,
        field: String,
        known: String,
    },
    #[error("{text:?}: field {field:?} needs a value: {field}=…")]
    NoValue { text: String, field: String },
    #[error("{text:?}: {field}=… is given twice")]
    Repeated { text: String, field: String },
}

impl Fields {
    pub(crate) fn parse(text: &str) -> Result<Self, FieldsError> {
        let columns = split(text).ok_or_else(|| FieldsError::OpenQuote(text.to_owned()))?;
        let mut fields: Vec<(String, Option<String>)> = Vec::with_capacity(columns.len());
        for column in columns.iter().filter(|column| !column.is_empty()) {
            let (field, value) = match column.split_once('=') {
                Some((field, value)) => (field.trim(), Some(value.to_owned())),
                None => (column.trim(), None),
            };
            if fields.iter().any(|(before, _)| before == field) {
                return Err(FieldsError::Repeated {
                    text: text.to_owned(),
                    field: field.to_owned(),
                });
            }
            fields.push((field.to_owned(), value));
        }
        Ok(Self(fields))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_deref()))
    }
}

/// A truth value as Go programs read it; `None` if it is none.
pub(crate) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The columns of one line of CSV; `None` if a quote stays open.
pub(crate) fn split(text: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            char => field.push(char),
        }
    }
    fields.push(field);
    (!quoted).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_one_line_of_csv() {
        let fields = Fields::parse(r#"type=image,"name=a,b",push,"quote=""x""""#).unwrap();
        let all: Vec<_> = fields.iter().collect();
        assert_eq!(
            all,
            [
                ("type", Some("image")),
                ("name", Some("a,b")),
                ("push", None),
                ("quote", Some("\"x\""))
            ]
        );
        assert_eq!(
            Fields::parse("\"a"),
            Err(FieldsError::OpenQuote("\"a".into()))
        );
        let twice = Fields::parse("a=1,b,a=2").unwrap_err().to_string();
        assert!(twice.contains("a=… is given twice"), "{twice}");
    }
}
