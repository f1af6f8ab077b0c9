//! What the launcher in the image promises to the host.

use serde_json::json;
use smolvm_tests::Host;

use super::guest::{Launcher, boot, probe, sh};

/// Names what a session has started and that still runs.
const LEFT: &str = "pgrep -u browser -l; test -e /run/smolvm-browser && echo run; true";

#[test]
fn headless_session_is_sandboxed_and_survives_its_browser() {
    let host = Host::new();
    boot(&host);
    let mut launcher = Launcher::start(&host, "one", &["WIDTH=1440", "HEIGHT=900", "DOWNLOADS=0"]);
    assert_eq!(launcher.line(), "ready");

    let version = sh(&host, "curl -sS 127.0.0.1:9222/json/version")
        .ok()
        .json();
    let debugger = version["webSocketDebuggerUrl"].as_str().expect("text");
    assert!(debugger.starts_with("ws://127.0.0.1:9222/"), "{version}");
    let page = json!({"urls": ["about:blank"], "width": 1440, "height": 900});
    assert_eq!(probe(&host, &["pages"]), page);

    let processes = probe(&host, &["processes"]);
    let (browser, renderer) = (&processes["browser"], &processes["renderer"]);
    assert_eq!(browser["uid"], 1000);
    assert_eq!(renderer["uid"], 1000);
    // 2 is SECCOMP_MODE_FILTER (proc_pid_status(5)).
    assert_eq!(renderer["seccomp"], 2);
    assert_eq!(renderer["no_new_privs"], 1);
    assert_ne!(renderer["user_namespace"], browser["user_namespace"]);
    assert_ne!(renderer["network_namespace"], browser["network_namespace"]);
    // What the kernel takes first when memory runs out.
    assert_eq!(renderer["oom_score_adj"], 300);
    assert_eq!(browser["oom_score_adj"], 0);
    assert_eq!(processes["launcher"]["oom_score_adj"], -500);

    let policy = sh(&host, "cat /etc/chromium/policies/managed/smolvm.json").ok();
    assert_eq!(policy.json()["DownloadRestrictions"], 3);

    let _killed = sh(&host, &format!("kill -9 {}", browser["pid"])).ok();
    assert_eq!(launcher.line(), "ended chromium with -9");
    assert_eq!(launcher.line(), "restarted chromium");
    assert_eq!(probe(&host, &["pages"]), page);

    let (code, said) = launcher.end();
    assert_eq!((code, said), (0, Vec::new()));
    assert_eq!(sh(&host, LEFT).ok().text(), "");
    let profile = "ls /opt/smolvm-browser/profiles/one";
    let profile = sh(&host, profile).ok().text();
    assert!(profile.contains("Local State"), "{profile}");
    assert!(!profile.contains("Singleton"), "{profile}");

    // A profile that Chromium does not open, because something else is where its lock belongs.
    let broken = "profile=/opt/smolvm-browser/profiles/broken; mkdir -p $profile/SingletonLock/x && \
                  echo kept > $profile/note && chown -R browser $profile";
    let _broken = sh(&host, broken).ok();
    let mut launcher = Launcher::start(&host, "two", &["PROFILE=broken"]);
    let told = launcher.line();
    let aside = told
        .strip_prefix("set-aside ")
        .expect("the path")
        .to_owned();
    assert!(
        aside.starts_with("/opt/smolvm-browser/profiles/broken."),
        "{aside}"
    );
    assert_eq!(launcher.line(), "ready");
    assert_eq!(probe(&host, &["pages"])["urls"], json!(["about:blank"]));
    let kept = sh(&host, &format!("cat '{aside}/note'")).ok().text();
    assert_eq!(kept, "kept\n");
    assert_eq!(launcher.end(), (0, Vec::new()));
}

#[test]
fn live_session_shows_and_records_the_page_to_who_has_the_token() {
    let host = Host::new();
    boot(&host);
    // What a machine that was killed leaves.
    let lock = "profile=/opt/smolvm-browser/profiles/shop; mkdir -p $profile && \
                ln -s another-machine-4711 $profile/SingletonLock";
    let _locked = sh(&host, lock).ok();
    let live = [
        "MODE=live",
        "WIDTH=800",
        "HEIGHT=600",
        "RECORD=1",
        "PROFILE=shop",
    ];
    let variables = [&live[..], &["TOKEN=0123456789abcdef"]].concat();
    let mut launcher = Launcher::start(&host, "two", &variables);
    assert_eq!(launcher.line(), "ready");

    let page = json!({"urls": ["about:blank"], "width": 800, "height": 600});
    assert_eq!(probe(&host, &["pages"]), page);
    let seen = probe(&host, &["live-view", "0123456789abcdef"]);
    assert_eq!(seen["first"], "RFB 003.008\n");
    let unseen = probe(&host, &["live-view", "0123456789abcdee"]);
    assert_eq!(unseen["first"], "");
    // 2 is the one with a password.
    let vnc = json!({"version": "RFB 003.008\n", "security": [2]});
    assert_eq!(probe(&host, &["vnc"]), vnc);
    let novnc = sh(&host, "curl -sS 127.0.0.1:6080/vnc.html").ok().text();
    assert!(novnc.contains("<title>noVNC</title>"), "{novnc}");
    let renderer = &probe(&host, &["processes"])["renderer"];
    assert_eq!(renderer["seccomp"], 2);

    assert_eq!(launcher.end(), (0, Vec::new()));
    assert_eq!(sh(&host, LEFT).ok().text(), "");
    let video = "ffprobe -v error -show_entries stream=codec_name,pix_fmt,width,height \
                 -show_entries format=duration -of json \
                 /opt/smolvm-browser/artifacts/two/session.mp4";
    let video = sh(&host, video).ok().json();
    let picture = json!({"codec_name": "h264", "pix_fmt": "yuv420p", "width": 800, "height": 600});
    assert_eq!(video["streams"], json!([picture]));
    let duration = video["format"]["duration"].as_str().expect("text");
    let duration: f64 = duration.parse().expect("a number");
    assert!(duration > 1.0, "{duration}");
}
