//! Settings from flags, variables and one file, as the binary itself reads them.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

struct Setup {
    directory: tempfile::TempDir,
}

impl Setup {
    fn new(file: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("server.toml"), file).unwrap();
        Self { directory }
    }

    fn run(&self, role: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandpiper"));
        command.args([role, "--print-config"]).args(arguments);
        if !arguments.contains(&"--config") {
            command.args(["--config", "server.toml"]);
        }
        // What the machine of the test has set must not matter.
        command.env_clear().envs(variables.iter().copied()).current_dir(self.directory.path());
        command.output().unwrap()
    }

    /// The printed line of a setting.
    fn line(&self, role: &str, arguments: &[&str], variables: &[(&str, &str)], key: &str) -> String {
        let output = self.run(role, arguments, variables);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let found = text.lines().find(|line| line.trim_start_matches("# ").split(' ').next() == Some(key));
        found.unwrap_or_else(|| panic!("{key} is not there:\n{text}")).to_owned()
    }
}

#[test]
fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
    let setup = Setup::new("# ours\nboot_timeout_sec = 1\n");
    let (flag, variable) = (["--boot-timeout-sec", "3"], [("SANDPIPER_BOOT_TIMEOUT_SEC", "2")]);
    let line = |flags: &[&str], variables| setup.line("up", flags, variables, "boot_timeout_sec");
    assert_eq!(line(&flag, &variable), "boot_timeout_sec = 3 # --boot-timeout-sec");
    assert_eq!(line(&[], &variable), "boot_timeout_sec = 2 # SANDPIPER_BOOT_TIMEOUT_SEC");
    assert_eq!(line(&[], &[]), "boot_timeout_sec = 1 # server.toml:2");
    assert_eq!(setup.line("up", &[], &[], "disk_reserve_mb"), "disk_reserve_mb = 1024 # default");
    assert_eq!(setup.line("up", &[], &[], "qemu"), "# qemu is not set");
    assert_eq!(setup.line("control-plane", &[], &[], "paused_max_age_sec"), "# paused_max_age_sec is not set");
}

#[test]
fn every_kind_of_value_can_stand_in_the_file_and_is_printed_as_it_could_stand_there() {
    let file = "listen = \"0.0.0.0:1\"\ninsecure_no_auth = true\ntemplates = [\"minimal\", \"python311\"]\n\
                drain_sec = 5\nallowed_hosts = \"box.example\"\ndata_dir = \"/tmp/a b\"\nlog_format = \"json\"\n";
    let first = Setup::new(file);
    let output = first.run("up", &[], &[]);
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    for line in [
        "listen = \"0.0.0.0:1\" # server.toml:1",
        "insecure_no_auth = true # server.toml:2",
        "templates = [\"minimal\", \"python311\"] # server.toml:3",
        "drain_sec = 5 # server.toml:4",
        "allowed_hosts = [\"box.example\"] # server.toml:5",
        "data_dir = \"/tmp/a b\" # server.toml:6",
    ] {
        assert!(printed.lines().any(|other| other == line), "{line}:\n{printed}");
    }
    let second = Setup::new(&printed).run("up", &[], &[]);
    let again = String::from_utf8(second.stdout).unwrap();
    let values = |text: &str| text.lines().map(|line| line.split(" # ").next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(values(&again), values(&printed));
    let off = first.line("up", &[], &[("SANDPIPER_INSECURE_NO_AUTH", "false")], "insecure_no_auth");
    assert_eq!(off, "insecure_no_auth = false # SANDPIPER_INSECURE_NO_AUTH");
}

#[test]
fn one_file_serves_every_role_and_a_table_is_for_one_alone() {
    let file = "data_dir = \"/a\"\nhost_agent = \"http://127.0.0.1:9\"\n\n[host-agent]\nlisten = \"127.0.0.1:9\"\n\
                data_dir = \"/b\"\n";
    let setup = Setup::new(file);
    assert_eq!(
        setup.line("control-plane", &[], &[], "host_agent"),
        "host_agent = \"http://127.0.0.1:9\" # server.toml:2"
    );
    assert_eq!(setup.line("control-plane", &[], &[], "listen"), "listen = \"127.0.0.1:8080\" # default");
    assert_eq!(setup.line("control-plane", &[], &[], "data_dir"), "data_dir = \"/a\" # server.toml:1");
    assert_eq!(setup.line("host-agent", &[], &[], "listen"), "listen = \"127.0.0.1:9\" # server.toml:5");
    assert_eq!(setup.line("host-agent", &[], &[], "data_dir"), "data_dir = \"/b\" # server.toml:6");
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    for (file, words) in [
        ("\nlistn = \"x\"", "server.toml:2: unknown key \"listn\"; known are "),
        ("data-dir = \"x\"", "server.toml:1: unknown key \"data-dir\""),
        ("config = \"x\"", "server.toml:1: unknown key \"config\""),
        (
            "[host]\nlisten = \"x\"",
            "server.toml:1: unknown key \"host\"; known are [control-plane], [host-agent], [up]",
        ),
        ("[control-plane]\nqemu = \"x\"", "server.toml:2: unknown key \"qemu\""),
        ("a = 1\n= 2", "server.toml:2: "),
        ("\n\nlisten = \"nowhere\"", "server.toml:3: listen: invalid value 'nowhere'"),
        ("drain_sec = -1", "server.toml:1: drain_sec: "),
        ("drain_sec = 1.5", "server.toml:1: drain_sec: it cannot be of the type float"),
        ("insecure_no_auth = \"yes\"", "server.toml:1: insecure_no_auth: it must be true or false"),
        ("templates = [\"../x\"]", "server.toml:1: templates: invalid value '../x'"),
    ] {
        let output = Setup::new(file).run("up", &[], &[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(64) && said.contains(words), "{file:?}: {said}");
    }
    let missing = Setup::new("").run("up", &["--config", "none.toml"], &[]);
    let said = String::from_utf8(missing.stderr).unwrap();
    assert!(missing.status.code() == Some(64) && said.contains("cannot read none.toml"), "{said}");
}

#[test]
fn a_variable_that_is_wrong_is_not_taken_for_a_fault_of_the_file() {
    let output = Setup::new("drain_sec = 5").run("up", &[], &[("SANDPIPER_ACCEL", "fast")]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("--accel") && !said.contains("server.toml"), "{said}");
}

#[test]
fn a_password_is_not_shown() {
    let setup = Setup::new("database_url = \"postgres://a:secret@h/d\"\n");
    assert_eq!(setup.line("up", &[], &[], "database_url"), "database_url = \"(hidden)\" # server.toml:1");
    let broken = Setup::new("database_url = \"postgres://a:secret@h/d\nx = 1\n").run("up", &[], &[]);
    let said = String::from_utf8(broken.stderr).unwrap();
    assert!(broken.status.code() == Some(64) && !said.contains("secret"), "{said}");
}

#[test]
fn the_file_may_be_named_by_a_variable() {
    let setup = Setup::new("drain_sec = 7\n");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandpiper"));
    command.args(["up", "--print-config"]).env_clear().env("SANDPIPER_CONFIG", "server.toml");
    let output = command.current_dir(setup.directory.path()).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("drain_sec = 7 # server.toml:1"));
}
