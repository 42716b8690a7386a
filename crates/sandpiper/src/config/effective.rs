//! The settings that hold, each with where it comes from, in the form of the file.

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::file::Setting;
use super::key_of;

/// One line for each setting of the role.
pub fn describe(role: &Command, flags: &ArgMatches, settings: &[Setting]) -> String {
    let lines = role.get_arguments().filter_map(|argument| Some((key_of(argument)?, argument)));
    lines.map(|(key, argument)| line(&key, argument, flags, settings) + "\n").collect()
}

fn line(key: &str, argument: &Arg, flags: &ArgMatches, settings: &[Setting]) -> String {
    let id = argument.get_id().as_str();
    let Some(source) = flags.value_source(id) else { return format!("# {key} is not set") };
    let from = match source {
        ValueSource::CommandLine => format!("--{}", argument.get_long().unwrap_or_default()),
        ValueSource::EnvVariable => argument.get_env().unwrap_or_default().to_string_lossy().into_owned(),
        // The later one won.
        _ => match settings.iter().rev().find(|setting| setting.key == key) {
            Some(setting) => setting.place.clone(),
            None => "default".to_owned(),
        },
    };
    format!("{key} = {} # {from}", value(argument, flags))
}

fn value(argument: &Arg, flags: &ArgMatches) -> String {
    if argument.is_hide_env_values_set() {
        return quoted("(hidden)");
    }
    let raw = flags.get_raw(argument.get_id().as_str()).into_iter().flatten();
    let words: Vec<String> = raw.map(|word| word.to_string_lossy().into_owned()).collect();
    if argument.get_value_delimiter().is_some() {
        return format!("[{}]", words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(", "));
    }
    let word = words.first().map_or("", String::as_str);
    let is_number = word.parse::<u64>().is_ok_and(|number| number.to_string() == word);
    let is_switch = matches!(argument.get_action(), ArgAction::SetTrue);
    if is_number || is_switch { word.to_owned() } else { quoted(word) }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
