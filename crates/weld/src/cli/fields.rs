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
}

impl Fields {
    pub(crate) fn parse(text: &str) -> Result<Self, FieldsError> {
        split(text)
            .map(|fields| {
                Self(
                    fields
                        .into_iter()
                        .filter(|field| !field.is_empty())
                        .map(|field| match field.split_once('=') {
                            Some((key, value)) => (key.trim().to_owned(), Some(value.to_owned())),
                            None => (field.trim().to_owned(), None),
                        })
                        .collect(),
                )
            })
            .ok_or_else(|| FieldsError::OpenQuote(text.to_owned()))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_deref()))
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
    }
}
