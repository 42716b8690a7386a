//! The file's settings, each with its line, checked against the flags of the roles.

use std::borrow::Cow;

use clap::builder::Resettable;
use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{key_of, reads_file};

/// One setting of one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name in the file.
    pub key: String,
    /// File and line.
    pub place: String,
    /// The flag of that name.
    id: String,
    /// As the flag would be given them.
    values: Vec<String>,
}

/// What is wrong with the file. No text of it is quoted beyond names: it may hold a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It is not TOML.
    #[error("{place}: {reason}")]
    Syntax {
        /// File and line.
        place: String,
        /// Why.
        reason: String,
    },
    /// A name that is none.
    #[error("{place}: unknown key {key:?}; known are {known}")]
    UnknownKey {
        /// File and line.
        place: String,
        /// The name.
        key: String,
        /// Those that there are.
        known: String,
    },
    /// A value that the flag would not take.
    #[error("{place}: {key}: {reason}")]
    Value {
        /// File and line.
        place: String,
        /// The name.
        key: String,
        /// Why.
        reason: String,
    },
}

/// The settings of `role` in `text`. What stands before all tables is for every role that has a flag of that name; what
/// stands in the table of a role is for that role alone, and wins because it is later.
pub fn settings(text: &str, file: &str, command: &Command, role: &str) -> Result<Vec<Setting>, FileError> {
    let reader = Reader { text, file, command };
    let root = DeTable::parse(text).map_err(|error| reader.syntax(&error))?;
    let (mut common, mut own) = (Vec::new(), Vec::new());
    for (key, value) in root.get_ref() {
        match value.get_ref() {
            DeValue::Table(table) => {
                // Also the tables of other roles must make sense.
                let of = reader.role(key)?;
                let settings = table.iter().map(|(key, value)| reader.setting(&[of], key, value));
                let settings = settings.collect::<Result<Vec<_>, _>>()?;
                if of.get_name() == role {
                    own = settings;
                }
            }
            _ => {
                let roles = reader.roles();
                let setting = reader.setting(&roles, key, value)?;
                let applies = roles.iter().any(|of| of.get_name() == role && find(of, &setting.key).is_some());
                common.extend(applies.then_some(setting));
            }
        }
    }
    common.extend(own);
    Ok(common)
}

fn find<'a>(role: &'a Command, key: &str) -> Option<&'a Arg> {
    role.get_arguments().find(|argument| key_of(argument).as_deref() == Some(key))
}

type Key<'a> = Spanned<Cow<'a, str>>;

struct Reader<'a> {
    text: &'a str,
    file: &'a str,
    command: &'a Command,
}

impl<'a> Reader<'a> {
    fn place(&self, at: usize) -> String {
        let line = self.text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{}:{line}", self.file)
    }

    fn syntax(&self, error: &toml::de::Error) -> FileError {
        let at = error.span().map_or(0, |span| span.start.min(self.text.len()));
        FileError::Syntax { place: self.place(at), reason: error.message().to_owned() }
    }

    /// The subcommands that read a file.
    fn roles(&self) -> Vec<&'a Command> {
        self.command.get_subcommands().filter(|command| reads_file(command)).collect()
    }

    fn role(&self, name: &Key<'_>) -> Result<&'a Command, FileError> {
        let known = self.roles().into_iter().find(|role| role.get_name() == name.get_ref());
        known.ok_or_else(|| {
            let names = self.roles().iter().map(|role| format!("[{}]", role.get_name())).collect();
            self.unknown(name, names)
        })
    }

    fn unknown(&self, key: &Key<'_>, mut known: Vec<String>) -> FileError {
        known.sort();
        known.dedup();
        FileError::UnknownKey {
            place: self.place(key.span().start),
            key: key.get_ref().to_string(),
            known: known.join(", "),
        }
    }

    /// A setting that at least one of `roles` has.
    fn setting(&self, roles: &[&Command], key: &Key<'_>, value: &Spanned<DeValue<'_>>) -> Result<Setting, FileError> {
        let name = key.get_ref().as_ref();
        let Some((role, argument)) = roles.iter().find_map(|role| Some((role, find(role, name)?))) else {
            let known = roles.iter().flat_map(|role| role.get_arguments().filter_map(key_of)).collect();
            return Err(self.unknown(key, known));
        };
        let place = self.place(key.span().start);
        let wrong = |reason| FileError::Value { place: place.clone(), key: name.to_owned(), reason };
        let values = values_of(argument, value.get_ref()).map_err(&wrong)?;
        self.try_out(role.get_name(), argument, &values).map_err(&wrong)?;
        Ok(Setting { key: name.to_owned(), id: argument.get_id().to_string(), values, place })
    }

    /// Gives the values to the flag itself, without the variables that would also be looked at.
    fn try_out(&self, role: &str, argument: &Arg, values: &[String]) -> Result<(), String> {
        if matches!(argument.get_action(), ArgAction::SetTrue) || values.is_empty() {
            return Ok(());
        }
        let alone = |role: Command| role.mut_args(|argument| argument.env(Resettable::Reset));
        let flag = format!("--{}={}", argument.get_long().unwrap_or_default(), values.join(","));
        let line = [self.command.get_name(), role, &flag];
        match self.command.clone().mut_subcommand(role, alone).try_get_matches_from(line) {
            Ok(_) => Ok(()),
            Err(error) => Err(first_line(&error)),
        }
    }
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// A value as the words that the flag would be given.
fn values_of(argument: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let is_switch = matches!(argument.get_action(), ArgAction::SetTrue);
    match value {
        DeValue::Boolean(value) if is_switch => Ok(vec![value.to_string()]),
        _ if is_switch => Err("it must be true or false".to_owned()),
        DeValue::Array(values) if argument.get_value_delimiter().is_some() => {
            values.iter().map(|value| word(value.get_ref())).collect()
        }
        other => Ok(vec![word(other)?]),
    }
}

fn word(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.to_string()),
        other => Err(format!("it cannot be of the type {}", other.type_str())),
    }
}

impl Setting {
    /// The role with this as a default.
    pub fn as_default(role: Command, setting: &Self) -> Command {
        role.mut_arg(&setting.id, |argument| argument.default_values(&setting.values))
    }
}
