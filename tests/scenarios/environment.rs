//! Environment variables that stay in a sandbox.

use std::collections::BTreeMap;

use smolvm_sandbox::{EnvError, ErrorKind};
use smolvm_tests::Host;

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(own).collect()
}

#[tokio::test]
async fn variables_reach_login_shells_until_they_are_unset() {
    let host = Host::new();
    host.start("box", &[]);
    let sandbox = host.open("box");
    let awkward = "it's \"two\"\nlines, $HOME and `id`";
    let names = sandbox
        .set_env(&variables(&[("GREETING", awkward), ("A", "")]), true)
        .await
        .expect("set");
    assert_eq!(names, ["A", "GREETING"]);

    let login = ["exec", "box", "--", "sh", "-lc", "printf %s \"$GREETING\""];
    assert_eq!(host.smolvm(&login).ok().text(), awkward);
    let file = "stat -c '%a %U' /etc/profile.d/smolvm_env.sh";
    assert_eq!(host.sh("box", file).ok().text(), "644 root\n");

    let names = sandbox.set_env(&variables(&[("B", "2")]), true).await;
    assert_eq!(names.expect("merged"), ["A", "B", "GREETING"]);
    let unset = ["GREETING".to_owned(), "NEVER_SET".to_owned()];
    let removed = sandbox.unset_env(&unset).await.expect("unset");
    assert_eq!(removed, variables(&[("GREETING", awkward)]));
    let all = sandbox.env().await.expect("read");
    assert_eq!(all, variables(&[("A", ""), ("B", "2")]));
    let names = sandbox.set_env(&variables(&[("C", "3")]), false).await;
    assert_eq!(names.expect("replaced"), ["C"]);
    assert_eq!(host.smolvm(&login).ok().text(), "");
}

#[tokio::test]
async fn variables_survive_a_stop_and_need_no_directory_to_begin_with() {
    let host = Host::new();
    host.start("box", &[]);
    let _removed = host.sh("box", "rm -r /etc/profile.d").ok();
    let sandbox = host.open("box");
    assert_eq!(sandbox.env().await.expect("none"), BTreeMap::new());
    let only = variables(&[("KEPT", "yes")]);
    sandbox.set_env(&only, true).await.expect("set");
    let _stopped = host.smolvm(&["stop", "box"]).ok();
    let _started = host.smolvm(&["start", "box"]).ok();
    assert_eq!(sandbox.env().await.expect("read"), only);
}

#[tokio::test]
async fn file_of_a_hostile_guest_is_refused_and_can_be_replaced() {
    let host = Host::new();
    host.start("box", &[]);
    let sandbox = host.open("box");
    for hostile in [
        "echo 'rm -rf /'",
        "head -c 300M /dev/zero",
        "printf 'export A=\\377\\n'",
    ] {
        let _written = host
            .sh("box", &format!("{hostile} > /etc/profile.d/smolvm_env.sh"))
            .ok();
        let error = sandbox.env().await.expect_err("not ours");
        assert!(matches!(error, EnvError::Unreadable), "{error}");
        assert_eq!(error.kind(), ErrorKind::GuestFailed);
    }
    let only = variables(&[("A", "1")]);
    sandbox.set_env(&only, false).await.expect("replaced");
    assert_eq!(sandbox.env().await.expect("read"), only);
}

#[test]
fn every_command_has_a_secret_s_placeholder_and_no_process_its_value() {
    const VALUE: &str = "sk-live-0123456789";
    let host = Host::new().with_environment("API_KEY", VALUE);
    host.start("box", &["--secret", "API_KEY@api.example.com"]);
    let of_exec = host
        .smolvm(&["exec", "box", "--", "printenv", "API_KEY"])
        .ok();
    let placeholder = of_exec.text();
    assert!(
        placeholder.starts_with("smolvm-secret-API_KEY-"),
        "{placeholder}"
    );
    let of_login = host.sh("box", "exec sh -lc 'echo $API_KEY'").ok();
    assert_eq!(of_login.text(), placeholder);
    let own = [
        "exec",
        "--env",
        "API_KEY=own",
        "box",
        "--",
        "printenv",
        "API_KEY",
    ];
    assert_eq!(host.smolvm(&own).ok().text(), "own\n");

    let environments: Vec<Vec<u8>> = [host.process("supervise"), host.vmm()]
        .iter()
        .map(|process| std::fs::read(format!("/proc/{process}/environ")).expect("alive"))
        .collect();
    let has = |environment: &Vec<u8>, word: &str| {
        let mut windows = environment.windows(word.len());
        windows.any(|window| window == word.as_bytes())
    };
    assert!(has(&environments[0], "SMOLVM_DATA_DIR"), "it has the rest");
    assert!(
        !environments
            .iter()
            .any(|environment| has(environment, VALUE))
    );
}
