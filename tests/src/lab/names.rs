//! The zone of the lab's DNS servers, which read its file at each question.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use serde_json::{Map, Value, json};

use super::{ECHO, ECHO_V6, WEB};

/// Seconds for which answers are valid. Short, as tests change them.
const TTL_SECONDS: u32 = 5;

/// The names of one lab.
#[derive(Debug)]
pub(super) struct Zone {
    path: PathBuf,
    /// What the file holds; locked while it is written.
    names: Mutex<Map<String, Value>>,
}

impl Zone {
    /// Returns a zone with the names of the lab's servers.
    pub(super) fn new(path: PathBuf) -> Self {
        let zone = Self {
            path,
            names: Mutex::default(),
        };
        zone.set("*.lab.test", &[&[WEB, "2001:db8:2::10"]], None);
        zone.set("echo.lab.test", &[&[ECHO, ECHO_V6]], None);
        zone
    }

    /// Sets what a name is answered with, in turn, or what it is an alias of.
    pub(super) fn set(&self, name: &str, turns: &[&[&str]], alias: Option<&str>) {
        let mut names = self.names.lock().expect("no panic while it was held");
        names.insert(
            name.to_owned(),
            json!({ "answers": turns, "ttl": TTL_SECONDS, "alias": alias }),
        );
        let new = self.path.with_extension("new");
        fs::write(&new, serde_json::to_vec(&*names).expect("JSON")).expect("written");
        fs::rename(&new, &self.path).expect("renamed");
    }
}
