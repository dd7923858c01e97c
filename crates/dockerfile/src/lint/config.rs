//! The options of `# check=skip=RULE,…;experimental=RULE,…;error=true`.

use crate::directive;
use crate::error::ErrorKind;
use crate::lint::Rule;
use crate::parse_bool;

/// Which rules are reported, and whether warnings fail the build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LintConfig {
    /// No rule is reported.
    pub skip_all: bool,
    /// Rules, by name, that are not reported. Unknown names are no error.
    pub skip: Vec<String>,
    /// All experimental rules are reported.
    pub experimental_all: bool,
    /// Experimental rules, by name, that are reported.
    pub experimental: Vec<String>,
    /// Warnings fail the build.
    pub error: bool,
}

impl LintConfig {
    /// Reads options as in `skip=A,B;error=true`; nothing gives the defaults.
    pub fn parse(options: &str) -> Result<Self, ErrorKind> {
        let mut config = Self::default();
        if options.trim().is_empty() {
            return Ok(config);
        }
        for option in options.trim().splitn(3, ';') {
            let invalid = || ErrorKind::InvalidCheckOption {
                option: option.to_owned(),
            };
            let (key, value) = option.split_once('=').ok_or_else(invalid)?;
            let value = value.trim();
            match key.trim() {
                "skip" if value == "all" => config.skip_all = true,
                "skip" => config.skip = names(value),
                "experimental" if value == "all" => config.experimental_all = true,
                "experimental" => config.experimental = names(value),
                "error" => config.error = parse_bool(value).ok_or_else(invalid)?,
                _ => return Err(invalid()),
            }
        }
        Ok(config)
    }

    /// The options of the Dockerfile's `# check=` directive, or the defaults.
    pub fn from_dockerfile(data: &[u8]) -> Result<Self, ErrorKind> {
        match directive::find("check", data) {
            Some(found) => Self::parse(found.first_word()),
            None => Ok(Self::default()),
        }
    }

    /// The options of the first `check=` among an instruction's comments. Malformed ones count
    /// for nothing: they are comments.
    pub(crate) fn from_comments(comments: &[String]) -> Option<Self> {
        let value = comments
            .iter()
            .find_map(|comment| directive::value_of("check", comment))?;
        Self::parse(value.split(' ').next().unwrap_or_default()).ok()
    }

    /// These options and, for one instruction, `local` on top. `error` stays the file's.
    pub(crate) fn merged(&self, local: &Self) -> Self {
        let union = |a: &[String], b: &[String]| [a, b].concat();
        Self {
            skip_all: self.skip_all || local.skip_all,
            skip: union(&self.skip, &local.skip),
            experimental_all: self.experimental_all || local.experimental_all,
            experimental: union(&self.experimental, &local.experimental),
            error: self.error,
        }
    }

    /// Whether `rule` is reported.
    pub fn reports(&self, rule: Rule) -> bool {
        let named = |names: &[String]| names.iter().any(|name| name == rule.name());
        if rule.experimental() {
            self.experimental_all || named(&self.experimental)
        } else {
            !self.skip_all && !named(&self.skip)
        }
    }
}

fn names(list: &str) -> Vec<String> {
    list.split(',').map(|name| name.trim().to_owned()).collect()
}
