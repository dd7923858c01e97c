//! `RUN --mount`: its options, their defaults and which type takes which.

use super::csv;
use super::kinds::{Mount, MountFlag, MountType, SharingMode};
use super::quantity;
use crate::error::{Error, MountError};
use crate::parse_bool;
use crate::shell::Expander;
use crate::source::Mark;
use crate::suggest;

/// Every option, for suggestions.
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "required",
    "size",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "env",
];

impl MountType {
    const ALL: [Self; 5] = [
        Self::Bind,
        Self::Cache,
        Self::Tmpfs,
        Self::Secret,
        Self::Ssh,
    ];

    /// The name in the `type` option.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }

    fn is_secret_or_ssh(self) -> bool {
        matches!(self, Self::Secret | Self::Ssh)
    }
}

impl SharingMode {
    const ALL: [Self; 3] = [Self::Shared, Self::Private, Self::Locked];

    /// The name in the `sharing` option.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Private => "private",
            Self::Locked => "locked",
        }
    }
}

impl MountFlag {
    /// Checks what must hold before expansion: the fields, and that `from` has no variable.
    pub(super) fn parse(text: &str, mark: Mark) -> Result<Self, Error> {
        let fields = csv::fields(text).map_err(MountError::Csv)?;
        let mut from = None;
        for field in &fields {
            let Some((key, value)) = field.split_once('=') else {
                continue;
            };
            if !key.eq_ignore_ascii_case("from") {
                continue;
            }
            // A dollar sign at the end is no variable.
            if value.find('$').is_some_and(|at| at + 1 != value.len()) {
                return Err(MountError::VariableInFrom.into());
            }
            from = Some(value.to_owned()).filter(|value| !value.is_empty());
        }
        Ok(Self {
            text: text.to_owned(),
            from,
            fields,
            mark,
        })
    }

    /// Where the flag stands.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Reads the options with their variables expanded.
    ///
    /// Options are read in order: those that depend on the type must follow `type`.
    pub fn resolve(&self, expander: &mut Expander<'_>) -> Result<Mount, Error> {
        let mut reader = Reader::default();
        for field in &self.fields {
            reader
                .field(field, expander)
                .map_err(|error| error.mark(self.mark))?;
        }
        reader
            .finish()
            .map_err(|error| Error::from(error).mark(self.mark))
    }
}

#[derive(Default)]
struct Reader {
    mount: Mount,
    readonly: Option<bool>,
}

impl Reader {
    fn field(&mut self, field: &str, expander: &mut Expander<'_>) -> Result<(), Error> {
        match field.split_once('=') {
            None => self.word(&field.to_lowercase(), field).map_err(Error::from),
            Some((key, value)) => {
                let value = expander.word(value)?;
                self.option(&key.to_lowercase(), &value, field)
            }
        }
    }

    /// An option without a value.
    fn word(&mut self, key: &str, field: &str) -> Result<(), MountError> {
        match key {
            "readonly" | "ro" => self.readonly = Some(true),
            "readwrite" | "rw" => self.readonly = Some(false),
            "required" => {
                self.only_for("required", MountType::is_secret_or_ssh)?;
                self.mount.required = true;
            }
            _ => {
                return Err(MountError::NoValue {
                    field: field.to_owned(),
                });
            }
        }
        Ok(())
    }

    fn option(&mut self, key: &str, value: &str, field: &str) -> Result<(), Error> {
        let invalid = || MountError::InvalidValue {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        let bool = || parse_bool(value).ok_or_else(invalid);
        let number = || value.parse::<u32>().map_err(|_| invalid());
        let text = || Some(value.to_owned()).filter(|value| !value.is_empty());
        match key {
            "type" => self.mount.kind = parse_type(value)?,
            "from" => self.mount.from = text(),
            "source" | "src" => self.mount.source = text(),
            "target" | "dst" | "destination" => self.mount.target = text(),
            "readonly" | "ro" => self.readonly = Some(bool()?),
            "readwrite" | "rw" => self.readonly = Some(!bool()?),
            "required" => {
                self.only_for("required", MountType::is_secret_or_ssh)?;
                self.mount.required = bool()?;
            }
            "size" => {
                self.only_for("size", |kind| kind == MountType::Tmpfs)?;
                self.mount.size = Some(quantity::bytes(value).ok_or_else(invalid)?);
            }
            "id" => self.mount.id = text(),
            "sharing" => self.mount.sharing = Some(parse_sharing(value)?),
            "mode" => {
                let mode = u32::from_str_radix(value, 8).map_err(|_| invalid())?;
                self.mount.mode = Some(mode);
            }
            "uid" => self.mount.uid = Some(number()?),
            "gid" => self.mount.gid = Some(number()?),
            "env" => self.mount.env = Some(value.to_owned()),
            _ => {
                return Err(Error::new(MountError::UnknownKey {
                    key: key.to_owned(),
                    field: field.to_owned(),
                })
                .suggest(suggest::closest(key, KEYS)));
            }
        }
        Ok(())
    }

    fn only_for(
        &self,
        key: &'static str,
        allowed: impl Fn(MountType) -> bool,
    ) -> Result<(), MountError> {
        if allowed(self.mount.kind) {
            return Ok(());
        }
        Err(MountError::KeyForType {
            key,
            kind: self.mount.kind.name(),
        })
    }

    /// Checks the options against the type, and fills in what depends on it.
    fn finish(mut self) -> Result<Mount, MountError> {
        let kind = self.mount.kind;
        if matches!(kind, MountType::Bind | MountType::Tmpfs) {
            let owner = [
                ("mode", self.mount.mode),
                ("uid", self.mount.uid),
                ("gid", self.mount.gid),
            ];
            if let Some((key, _)) = owner.iter().find(|(_, value)| value.is_some()) {
                let kind = kind.name();
                return Err(MountError::NotAllowed { key, kind });
            }
        }
        let writable = matches!(kind, MountType::Cache | MountType::Tmpfs);
        self.mount.readonly = self.readonly.unwrap_or(!writable);
        if kind == MountType::Secret {
            self.check_secret()?;
        }
        if self.mount.sharing.is_some() && kind != MountType::Cache {
            return Err(MountError::SharingForType { kind: kind.name() });
        }
        Ok(self.mount)
    }

    fn check_secret(&self) -> Result<(), MountError> {
        let mount = &self.mount;
        if mount.from.is_some() {
            return Err(MountError::SecretFrom);
        }
        match (&mount.source, &mount.id, &mount.target) {
            (None, None, None) => Err(MountError::SecretUnnamed),
            (Some(_), Some(_), _) => Err(MountError::SecretNamedTwice),
            _ => Ok(()),
        }
    }
}

fn parse_type(value: &str) -> Result<MountType, Error> {
    let lower = value.to_lowercase();
    MountType::ALL
        .into_iter()
        .find(|kind| kind.name() == lower)
        .ok_or_else(|| {
            let names = MountType::ALL.map(MountType::name);
            Error::new(MountError::UnknownType {
                value: value.to_owned(),
            })
            .suggest(suggest::closest(value, names))
        })
}

fn parse_sharing(value: &str) -> Result<SharingMode, Error> {
    let lower = value.to_lowercase();
    SharingMode::ALL
        .into_iter()
        .find(|mode| mode.name() == lower)
        .ok_or_else(|| {
            let names = SharingMode::ALL.map(SharingMode::name);
            Error::new(MountError::UnknownSharing {
                value: value.to_owned(),
            })
            .suggest(suggest::closest(value, names))
        })
}
