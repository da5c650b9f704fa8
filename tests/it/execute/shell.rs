//! Contract 5.2, the script: raw shell text runs as written and all of it is redirected, a simple
//! command is PID 1, arguments and environment come through byte for byte.

use std::fs;

use serde_json::{Value, json};

use crate::kit::{
    Daemon, SOON, docker, execute_body, image, inspect, task_container, unique_id, wait_until, with,
};

/// Runs `command` and returns what it wrote to both streams.
fn output_of(command: &str) -> (String, String) {
    output_of_body(command, json!({}))
}

fn output_of_body(command: &str, fields: Value) -> (String, String) {
    let daemon = Daemon::start();
    let id = unique_id();
    daemon.run(&with(execute_body(&daemon, id, command), fields));
    (daemon.stdout_of(id), daemon.stderr_of(id))
}

/// What the first process of a running task was started with, as the kernel has it.
fn command_line_of_init(id: u64) -> Vec<String> {
    let pid = inspect(&task_container(id)).expect("a container")["State"]["Pid"].clone();
    let mut line = Vec::new();
    // For a moment after the start it is still the Engine's runtime that is about to become it.
    let began = wait_until(SOON, || {
        let text = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("a running process");
        line = text.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
        !line.starts_with(&["runc".to_owned()])
    });
    assert!(began, "still {line:?}");
    line
}

// ── the command ──────────────────────────────────────────────────────────────────────────────

#[test]
fn compound_command_runs_whole_and_all_of_it_is_redirected() {
    let (stdout, stderr) = output_of("echo one; echo two | sed s/two/2/; echo three >&2");
    assert_eq!((stdout.as_str(), stderr.as_str()), ("one\n2\n", "three\n"));
}

#[test]
fn conditional_command_runs_each_part_that_is_due() {
    let (stdout, _) = output_of("false && echo no || echo yes && { echo more; (echo sub); }");
    assert_eq!(stdout, "yes\nmore\nsub\n");
}

#[test]
fn quotes_variables_and_backticks_mean_what_a_shell_makes_of_them() {
    let (stdout, _) = output_of_body(
        r#"printf '%s|' 'a  b' "$GREETING" '$GREETING' \$x "`echo deep`" $(echo "in side")"#,
        json!({ "env_vars": { "GREETING": "hello you" } }),
    );
    assert_eq!(stdout, "a  b|hello you|$GREETING|$x|deep|in|side|");
}

#[test]
fn comments_and_newlines_stand_as_written() {
    let (stdout, _) = output_of("# first\necho a # not b; echo c\n\n  echo 'd\ne'\n");
    assert_eq!(stdout, "a\nd\ne\n");
}

#[test]
fn here_document_reaches_its_command() {
    let (stdout, _) = output_of("cat <<'END'\n$raw `text`\nEND\necho after");
    assert_eq!(stdout, "$raw `text`\nafter\n");
}

#[test]
fn redirections_of_the_command_itself_are_its_own() {
    let (stdout, stderr) =
        output_of("echo kept >/local_temp/file; cat /local_temp/file; echo up >&2 2>&1");
    assert_eq!((stdout.as_str(), stderr.as_str()), ("kept\n", "up\n"));
}

#[test]
fn script_that_ends_in_the_middle_of_a_quote_fails_with_the_shells_own_words() {
    let daemon = Daemon::start();
    let id = unique_id();
    let body = with(
        execute_body(&daemon, id, "echo before; echo 'open"),
        json!({ "registry_image": image("debian") }),
    );
    let task = daemon.run(&body);
    assert_eq!((&task["status"], &task["exit_code"]), (&json!("failed"), &json!(2)));
    assert!(daemon.stderr_of(id).contains("Unterminated quoted string"));
}

#[test]
fn output_of_both_streams_may_go_to_one_file_in_order() {
    let daemon = Daemon::start();
    let id = unique_id();
    let both = daemon.log_path(id, "deep/er/both.log");
    let body = with(
        execute_body(&daemon, id, "echo 1; echo 2 >&2; echo 3"),
        json!({ "stdout_path": both, "stderr_path": both }),
    );
    daemon.run(&body);
    assert_eq!(fs::read_to_string(both).unwrap(), "1\n2\n3\n");
}

#[test]
fn stdin_is_empty_and_no_terminal() {
    let (stdout, _) = output_of("cat; tty; [ -t 1 ] || echo file");
    assert_eq!(stdout, "not a tty\nfile\n");
}

// ── the first process ────────────────────────────────────────────────────────────────────────

#[test]
fn simple_command_is_the_containers_first_process() {
    let daemon = Daemon::start();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "sleep '1000' \"1\""));
    daemon.wait_status(id, "running");
    let is_sleep = || command_line_of_init(id) == ["sleep", "1000", "1"];
    assert!(wait_until(crate::kit::SOON, is_sleep), "{:?}", command_line_of_init(id));
}

#[test]
fn signal_reaches_a_simple_command() {
    let daemon = Daemon::start();
    let script = daemon.shared_dir().join("shared_data/trap.sh");
    fs::create_dir_all(script.parent().unwrap()).unwrap();
    fs::write(script, "trap 'exit 5' TERM\necho ready\nwhile :; do sleep 0.05; done\n").unwrap();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "sh /shared/trap.sh"));
    assert!(wait_until(crate::kit::SOON, || daemon.stdout_of(id) == "ready\n"));
    docker(&["kill", "--signal", "TERM", &task_container(id)]);
    assert_eq!(daemon.wait_over(id)["exit_code"], 5);
}

#[test]
fn compound_command_is_run_by_a_shell_that_stays() {
    let daemon = Daemon::start();
    let id = daemon.submit(&execute_body(&daemon, unique_id(), "sleep 1000; true"));
    daemon.wait_status(id, "running");
    assert_eq!(command_line_of_init(id)[..2], ["/bin/sh", "-c"]);
}

// ── arguments ────────────────────────────────────────────────────────────────────────────────

/// Everything that a shell, an option parser or a text encoding could take for something else.
const ODD_ARGUMENTS: &[&str] = &[
    "a b",
    "",
    "it's",
    "\"q\"",
    "$HOME",
    "`id`",
    "$(id)",
    "\\",
    "\\n",
    "*",
    "~",
    "?",
    "[a]",
    "{a,b}",
    "line\nbreak",
    "\n",
    "cr\r\n",
    "\t",
    "-n",
    "--",
    "--help",
    "-",
    "#no",
    "a#b",
    "!",
    "&",
    "|",
    ";",
    ">x",
    "%s",
    "ünïcode ☃ 𝄞",
    "\u{1}\u{7f}",
    "=",
    "A=b",
    "'\\''",
    " lead",
    "trail ",
];

fn arguments_that_arrive(image: &str) -> Vec<u8> {
    let daemon = Daemon::start();
    let id = unique_id();
    let body = with(
        execute_body(&daemon, id, r"printf '%s\0'"),
        json!({ "registry_image": image, "arguments": ODD_ARGUMENTS }),
    );
    daemon.run(&body);
    fs::read(daemon.log_path(id, "stdout.log")).expect("an output file")
}

fn odd_arguments_each_ended_by_nul() -> Vec<u8> {
    ODD_ARGUMENTS.iter().flat_map(|argument| [argument.as_bytes(), b"\0"].concat()).collect()
}

#[test]
fn odd_arguments_arrive_byte_for_byte_in_busybox() {
    assert_eq!(arguments_that_arrive(&image("busybox")), odd_arguments_each_ended_by_nul());
}

#[test]
fn odd_arguments_arrive_byte_for_byte_in_debian() {
    assert_eq!(arguments_that_arrive(&image("debian")), odd_arguments_each_ended_by_nul());
}

// ── environment ──────────────────────────────────────────────────────────────────────────────

/// The environment of a task with these fields in its body, by name.
fn environment_of(daemon: &Daemon, fields: Value) -> (u64, Vec<(String, String)>) {
    let id = unique_id();
    daemon.run(&with(execute_body(daemon, id, "cat /proc/self/environ"), fields));
    let pair = |line: &str| line.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()));
    (id, daemon.stdout_of(id).split('\0').filter_map(pair).collect())
}

/// The one value of `name`.
fn value<'a>(environment: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut values = environment.iter().filter(|(have, _)| have == name);
    let value = values.next().map(|(_, value)| value.as_str());
    assert_eq!(values.next(), None, "{name} twice");
    value
}

#[test]
fn odd_values_of_variables_arrive_as_they_are() {
    let odd = "a=b 'c' \"d\" $E `f` \\ \n\t ünïcode ☃";
    let daemon = Daemon::start();
    let (_, environment) =
        environment_of(&daemon, json!({ "env_vars": { "ODD": odd, "NONE": "" } }));
    assert_eq!(value(&environment, "ODD"), Some(odd));
    assert_eq!(value(&environment, "NONE"), Some(""));
}

#[test]
fn runners_own_variables_are_there_and_a_user_can_not_change_them() {
    let daemon = Daemon::start();
    let users = json!({ "env_vars": {
        "KOHAKURIVER_TASK_ID": "1",
        "KOHAKURIVER_SHARED_DIR": "/elsewhere",
        "KOHAKURIVER_CONTAINER_ID": "other",
        "MINE": "mine",
    } });
    let (id, environment) = environment_of(&daemon, users);
    let (task_id, container) = (id.to_string(), task_container(id));
    assert_eq!(value(&environment, "KOHAKURIVER_TASK_ID"), Some(task_id.as_str()));
    // Both are the host's paths and not those of the mounts, as the contract has them.
    assert_eq!(value(&environment, "KOHAKURIVER_SHARED_DIR"), daemon.shared_dir().to_str());
    let local_temp = daemon.setting("local_temp_dir");
    assert_eq!(value(&environment, "KOHAKURIVER_LOCAL_TEMP_DIR"), Some(local_temp));
    assert_eq!(value(&environment, "KOHAKURIVER_CONTAINER_ID"), Some(container.as_str()));
    let url = value(&environment, "KOHAKURIVER_TUNNEL_URL").expect("a tunnel by default");
    let gateway = crate::kit::NETWORK_GATEWAY;
    assert!(url.starts_with(&format!("ws://{gateway}:{}/t/", daemon.port())), "{url}");
    assert_eq!(value(&environment, "KOHAKURIVER_TARGET_NUMA_NODE"), None);
    assert_eq!(value(&environment, "MINE"), Some("mine"));
}

#[test]
fn tunnel_variables_are_absent_where_there_is_no_tunnel() {
    let daemon = Daemon::builder().set("tunnel_enabled", false).start();
    let (_, environment) = environment_of(&daemon, json!({}));
    assert_eq!(value(&environment, "KOHAKURIVER_TUNNEL_URL"), None);
    assert_eq!(value(&environment, "KOHAKURIVER_CONTAINER_ID"), None);
}

// ── working directory ────────────────────────────────────────────────────────────────────────

#[test]
fn working_directory_is_shared_unless_told() {
    assert_eq!(output_of("pwd").0, "/shared\n");
}

#[test]
fn empty_working_directory_is_shared_too() {
    assert_eq!(output_of_body("pwd", json!({ "working_dir": "" })).0, "/shared\n");
}

#[test]
fn other_working_directory_that_exists_is_entered() {
    assert_eq!(output_of_body("pwd", json!({ "working_dir": "/var/tmp" })).0, "/var/tmp\n");
}

#[test]
fn odd_name_of_a_working_directory_is_no_shell_text() {
    let daemon = Daemon::start();
    let odd = "it's $HOME; exit 9";
    fs::create_dir_all(daemon.shared_dir().join("shared_data").join(odd)).unwrap();
    let id = unique_id();
    let body =
        with(execute_body(&daemon, id, "pwd"), json!({ "working_dir": format!("/shared/{odd}") }));
    daemon.run(&body);
    assert_eq!(daemon.stdout_of(id), format!("/shared/{odd}\n"));
}

#[test]
fn working_directory_that_does_not_exist_is_failed_naming_it_and_leaves_nothing() {
    let daemon = Daemon::start();
    let id = unique_id();
    let body = with(
        execute_body(&daemon, id, "echo ran"),
        json!({ "working_dir": "/shared/no/such place" }),
    );
    let task = daemon.run(&body);
    assert_eq!((&task["status"], &task["exit_code"]), (&json!("failed"), &json!(125)));
    let message = task["message"].as_str().unwrap();
    assert!(message.contains("/shared/no/such place"), "{message}");
    assert_eq!(daemon.stdout_of(id), "");
    assert!(!daemon.shared_dir().join("shared_data/no").exists());
    assert_eq!(daemon.containers(), Vec::<String>::new());
}
