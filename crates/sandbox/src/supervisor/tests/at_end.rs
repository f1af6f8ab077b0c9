//! What the guest does before it is shut down.

use super::*;
use crate::AtEnd;

/// A supervisor whose guest runs `command` at its end, and the file that receives its output.
async fn fixture(command: &[&str], limits: fn(&mut SandboxSpec)) -> (Fixture, Kept) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut spec = SandboxSpec::new(SandboxId::random(), Lifetime::Persistent);
    spec.at_end = Some(AtEnd {
        command: command.iter().map(|&word| word.to_owned()).collect(),
        patience_ms: milliseconds(PATIENCE),
        output: directory.path().join("kept"),
        max_output_bytes: 8,
    });
    limits(&mut spec);
    let mut fixture = Fixture::start_as(Script::Ready, spec, PATIENCE);
    let event = fixture.event().await;
    assert!(matches!(event, LeaseEvent::Ready(_)), "{event:?}");
    (fixture, Kept(directory))
}

/// The directory of the host that receives what is kept.
struct Kept(tempfile::TempDir);

impl Kept {
    /// Returns the names and contents of the files in it.
    fn files(&self) -> Vec<(String, String)> {
        std::fs::read_dir(self.0.path())
            .expect("readable")
            .map(|entry| entry.expect("readable"))
            .map(|entry| {
                let content = std::fs::read_to_string(entry.path()).expect("text");
                (entry.file_name().to_string_lossy().into_owned(), content)
            })
            .collect()
    }
}

fn said(text: &str) -> Vec<(String, String)> {
    vec![("kept".to_owned(), text.to_owned())]
}

#[tokio::test]
async fn patient_stop_keeps_what_the_guest_says_at_its_end() {
    let (fixture, kept) = fixture(&["echo", "bye"], |_| {}).await;
    fixture.sandbox().stop(PATIENCE).await.expect("stopped");
    assert_eq!(kept.files(), said("bye\n"));
    let (state, _) = fixture.ended().await.expect("kept");
    assert_eq!(state, SandboxState::Stopped);
}

#[tokio::test]
async fn deadline_keeps_it_too_though_nobody_is_connected() {
    let (kept_disk, kept) = fixture(&["echo", "late"], |spec| spec.max_lifetime_ms = Some(1)).await;
    assert!(kept_disk.ended().await.is_some());
    assert_eq!(kept.files(), said("late\n"));
    let leased = |spec: &mut SandboxSpec| {
        spec.max_lifetime_ms = Some(1);
        spec.lifetime = Lifetime::Leased;
    };
    let (leased, kept) = fixture(&["echo", "late"], leased).await;
    assert_eq!(leased.ended().await, None);
    assert_eq!(kept.files(), said("late\n"));
}

#[tokio::test]
async fn kill_and_delete_do_not_ask_the_guest() {
    let (stopped, kept) = fixture(&["echo", "bye"], |_| {}).await;
    stopped
        .sandbox()
        .stop(Duration::ZERO)
        .await
        .expect("killed");
    assert!(stopped.ended().await.is_some());
    assert_eq!(kept.files(), []);
    let (deleted, kept) = fixture(&["echo", "bye"], |_| {}).await;
    deleted.sandbox().delete().await.expect("deleted");
    assert_eq!(deleted.ended().await, None);
    assert_eq!(kept.files(), []);
}

#[tokio::test]
async fn delete_does_not_wait_for_a_guest_that_takes_its_time() {
    let (fixture, kept) = fixture(&["sleep"], |_| {}).await;
    let sandbox = fixture.sandbox();
    let stopping = tokio::spawn(async move { sandbox.stop(PATIENCE).await });
    // In the order that the supervisor takes them: a later answer means that the stop has begun.
    fixture.sandbox().status().await.expect("answers");
    fixture.sandbox().delete().await.expect("deleted");
    stopping.await.expect("no panic").expect("stopped");
    assert_eq!(fixture.ended().await, None);
    assert_eq!(kept.files(), []);
}

#[tokio::test]
async fn what_failed_or_was_too_much_is_not_kept_and_the_stop_goes_on() {
    for command in [&["false"][..], &["echo", "over eight bytes"], &["no-such"]] {
        let (fixture, kept) = fixture(command, |_| {}).await;
        fixture.sandbox().stop(PATIENCE).await.expect("stopped");
        assert_eq!(kept.files(), [], "{command:?}");
        let (state, _) = fixture.ended().await.expect("kept");
        assert_eq!(state, SandboxState::Stopped, "{command:?}");
    }
}

#[tokio::test]
async fn guest_that_is_not_done_in_time_is_shut_down() {
    let hurry = |spec: &mut SandboxSpec| {
        spec.at_end.as_mut().expect("set").patience_ms = 1;
    };
    let (fixture, kept) = fixture(&["sleep"], hurry).await;
    fixture.sandbox().stop(PATIENCE).await.expect("stopped");
    assert_eq!(kept.files(), []);
    let (state, _) = fixture.ended().await.expect("kept");
    assert_eq!(state, SandboxState::Stopped);
}
