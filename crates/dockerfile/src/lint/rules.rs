//! The rules. One table makes both the rules and their findings.

use std::fmt;

/// Declares [`Rule`] and [`Finding`]: name, description, page, message with its values.
macro_rules! rules {
    ($(
        $(#[$experimental:ident])?
        $name:ident { $($(#[$doc:meta])* $field:ident),* }
        $description:literal,
        $page:expr,
        $message:expr;
    )*) => {
        /// A rule of the linter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Rule {
            $(#[doc = $description] $name,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name by which `# check=skip=` knows it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// What it asks for.
            pub fn description(self) -> &'static str {
                match self {
                    $(Self::$name => $description,)*
                }
            }

            /// Where it is explained; empty if nowhere.
            pub fn url(self) -> &'static str {
                match self {
                    $(Self::$name => $page,)*
                }
            }

            /// Whether it is off unless it is asked for.
            pub fn experimental(self) -> bool {
                match self {
                    $(Self::$name => rules!(@experimental $($experimental)?),)*
                }
            }
        }

        /// A rule that was broken, with what broke it. `Display` gives the message.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Finding {
            $(
                #[doc = $description]
                $name {
                    $($(#[$doc])* $field: String,)*
                },
            )*
        }

        impl Finding {
            /// The rule.
            pub fn rule(&self) -> Rule {
                match self {
                    $(Self::$name { .. } => Rule::$name,)*
                }
            }
        }

        impl fmt::Display for Finding {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name { $($field),* } => {
                        let message: fn(&mut fmt::Formatter<'_>, $(rules!(@text $field)),*) -> fmt::Result = $message;
                        message(f, $($field),*)
                    })*
                }
            }
        }
    };
    (@experimental) => { false };
    (@experimental experimental) => { true };
    (@text $field:ident) => { &str };
}

/// The page of a rule in Docker's documentation.
macro_rules! page {
    ($slug:literal) => {
        concat!("https://docs.docker.com/go/dockerfile/rule/", $slug, "/")
    };
}

rules! {
    StageNameCasing {
        /// The stage's name.
        stage
    }
    "Stage names should be lowercase",
    page!("stage-name-casing"),
    |f, stage| write!(f, "Stage name '{stage}' should be lowercase");

    FromAsCasing {
        /// `FROM` as written.
        from,
        /// `AS` as written.
        keyword
    }
    "The 'as' keyword should match the case of the 'from' keyword",
    page!("from-as-casing"),
    |f, from, keyword| write!(f, "'{keyword}' and '{from}' keywords' casing do not match");

    NoEmptyContinuation {}
    "Empty continuation lines will become errors in a future release",
    page!("no-empty-continuation"),
    |f| f.write_str("Empty continuation line");

    ConsistentInstructionCasing {
        /// The keyword as written.
        keyword,
        /// `lowercase` or `uppercase`.
        casing
    }
    "All commands within the Dockerfile should use the same casing (either upper or lower)",
    page!("consistent-instruction-casing"),
    |f, keyword, casing| write!(
        f,
        "Command '{keyword}' should match the case of the command majority ({casing})"
    );

    DuplicateStageName {
        /// The stage's name.
        stage
    }
    "Stage names should be unique",
    page!("duplicate-stage-name"),
    |f, stage| write!(f, "Duplicate stage name {stage:?}, stage names should be unique");

    ReservedStageName {
        /// The stage's name.
        stage
    }
    "Reserved words should not be used as stage names",
    page!("reserved-stage-name"),
    |f, stage| write!(f, "Stage name should not use the same name as reserved stage {stage:?}");

    JSONArgsRecommended {
        /// `CMD` or `ENTRYPOINT` as written.
        instruction
    }
    "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    page!("json-args-recommended"),
    |f, instruction| write!(
        f,
        "JSON arguments recommended for {instruction} to prevent unintended behavior related to OS signals"
    );

    MaintainerDeprecated {}
    "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    page!("maintainer-deprecated"),
    |f| f.write_str("Maintainer instruction is deprecated in favor of using label");

    UndefinedArgInFrom {
        /// The variable.
        name,
        /// A variable with a similar name; empty if there is none.
        suggestion
    }
    "FROM command must use declared ARGs",
    page!("undefined-arg-in-from"),
    |f, name, suggestion| {
        write!(f, "FROM argument '{name}' is not declared")?;
        match suggestion {
            "" => Ok(()),
            _ => write!(f, " (did you mean {suggestion}?)"),
        }
    };

    WorkdirRelativePath {
        /// The path.
        path
    }
    "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    page!("workdir-relative-path"),
    |f, path| write!(
        f,
        "Relative workdir {path:?} can have unexpected results if the base image changes"
    );

    UndefinedVar {
        /// The variable.
        name,
        /// A variable with a similar name; empty if there is none.
        suggestion
    }
    "Variables should be defined before their use",
    page!("undefined-var"),
    |f, name, suggestion| {
        write!(f, "Usage of undefined variable '${name}'")?;
        match suggestion {
            "" => Ok(()),
            _ => write!(f, " (did you mean ${suggestion}?)"),
        }
    };

    MultipleInstructionsDisallowed {
        /// The instruction as written.
        instruction
    }
    "Multiple instructions of the same type should not be used in the same stage",
    page!("multiple-instructions-disallowed"),
    |f, instruction| write!(
        f,
        "Multiple {instruction} instructions should not be used in the same stage because only the last one will be used"
    );

    LegacyKeyValueFormat {
        /// The instruction as written.
        instruction
    }
    "Legacy key/value format with whitespace separator should not be used",
    page!("legacy-key-value-format"),
    |f, instruction| write!(
        f,
        "\"{instruction} key=value\" should be used instead of legacy \"{instruction} key value\" format"
    );

    InvalidBaseImagePlatform {
        /// The image.
        image,
        /// The platform of the build.
        expected,
        /// The platform of the image.
        actual
    }
    "Base image platform does not match expected target platform",
    "",
    |f, image, expected, actual| write!(
        f,
        "Base image {image} was pulled with platform {actual:?}, expected {expected:?} for current build"
    );

    RedundantTargetPlatform {
        /// The flag's value.
        platform
    }
    "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    page!("redundant-target-platform"),
    |f, platform| write!(
        f,
        "Setting platform to predefined {platform} in FROM is redundant as this is the default behavior"
    );

    SecretsUsedInArgOrEnv {
        /// `ARG` or `ENV`.
        instruction,
        /// The variable.
        name
    }
    "Sensitive data should not be used in the ARG or ENV commands",
    page!("secrets-used-in-arg-or-env"),
    |f, instruction, name| write!(
        f,
        "Do not use ARG or ENV instructions for sensitive data ({instruction} {name:?})"
    );

    InvalidDefaultArgInFrom {
        /// The base as written.
        base
    }
    "Default value for global ARG results in an empty or invalid base image name",
    page!("invalid-default-arg-in-from"),
    |f, base| write!(
        f,
        "Default value for ARG {base} results in empty or invalid base image name"
    );

    FromPlatformFlagConstDisallowed {
        /// The flag's value.
        platform
    }
    "FROM --platform flag should not use a constant value",
    page!("from-platform-flag-const-disallowed"),
    |f, platform| write!(f, "FROM --platform flag should not use constant value {platform:?}");

    CopyIgnoredFile {
        /// `Copy` or `Add`.
        instruction,
        /// The source path.
        file
    }
    "Attempting to Copy file that is excluded by .dockerignore",
    page!("copy-ignored-file"),
    |f, instruction, file| write!(
        f,
        "Attempting to {instruction} file {file:?} that is excluded by .dockerignore"
    );

    #[experimental]
    InvalidDefinitionDescription {
        /// `ARG` or `FROM`.
        instruction,
        /// The name that the comment should begin with.
        name
    }
    "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    page!("invalid-definition-description"),
    |f, instruction, name| write!(
        f,
        "Comment for {instruction} should follow the format: `# {name} <description>`"
    );

    ExposeProtoCasing {
        /// The specification.
        port
    }
    "Protocol in EXPOSE instruction should be lowercase",
    page!("expose-proto-casing"),
    |f, port| write!(
        f,
        "Defined protocol '{port}' in EXPOSE instruction should be lowercase"
    );

    ExposeInvalidFormat {
        /// The specification.
        port
    }
    "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
    page!("expose-invalid-format"),
    |f, port| write!(
        f,
        "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
    );

    UnknownWeldComment {
        /// The comment.
        comment,
        /// What is wrong with it.
        reason
    }
    "Comments that ask something of Weldkit should be understood by it, and be above an instruction that makes a step",
    "",
    |f, comment, reason| write!(f, "Comment '{comment}' has no effect: {reason}");
}
