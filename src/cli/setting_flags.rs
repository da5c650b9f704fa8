//! A flag for every setting, made from the table of `app::config`.

use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::app::config::table::{Row, SETTINGS, Slot};
use crate::model::settings::Settings;

/// Keys with what was said for them on the command line.
#[derive(Clone, Debug, Default)]
pub struct SettingFlags(pub Vec<(&'static str, String)>);

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        command.args(SETTINGS.iter().filter_map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        SettingFlags::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SettingFlags, Error> {
        let mut flags = SettingFlags::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for row in SETTINGS.iter().filter(|row| row.flag().is_some()) {
            if let Some(text) = matches.get_one::<String>(row.key) {
                self.0.push((row.key, text.clone()));
            }
        }
        Ok(())
    }
}

fn argument(row: &'static Row) -> Option<Arg> {
    let (Slot::Field(field), Some(flag)) = (&row.slot, row.flag()) else { return None };
    let default = (field.get)(&Settings::default());
    let argument = Arg::new(row.key)
        .long(flag)
        .value_name(field.value_name)
        .help(row.summary())
        .long_help(format!("{} [default: {default}]", row.doc))
        .help_heading("Settings");
    Some(argument)
}
