//! `RUN --device`.

use super::csv;
use super::kinds::Device;
use crate::error::{DeviceError, Error};
use crate::parse_bool;
use crate::suggest;

impl Device {
    /// Reads `NAME[,required]` or `name=NAME[,required=BOOL]`. A first field with another key is
    /// a name: CDI names hold `=`.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let mut device = Self {
            name: String::new(),
            required: false,
        };
        for field in csv::fields(text).map_err(DeviceError::Csv)? {
            device.field(&field)?;
        }
        Ok(device)
    }

    fn field(&mut self, field: &str) -> Result<(), Error> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => self.required = true,
            ("required", Some(value)) => {
                let invalid = || DeviceError::InvalidRequired {
                    value: value.to_owned(),
                };
                self.required = parse_bool(value).ok_or_else(invalid)?;
            }
            ("name", Some(value)) if self.name.is_empty() => value.clone_into(&mut self.name),
            ("name", Some(_)) => {
                let name = self.name.clone();
                return Err(DeviceError::NamedTwice { name }.into());
            }
            _ if self.name.is_empty() => field.clone_into(&mut self.name),
            (_, None) => {
                let field = field.to_owned();
                return Err(DeviceError::NoValue { field }.into());
            }
            (_, Some(_)) => {
                let suggestion = suggest::closest(&key, ["name", "required"]);
                let field = field.to_owned();
                return Err(Error::new(DeviceError::UnknownKey { key, field }).suggest(suggestion));
            }
        }
        Ok(())
    }
}
