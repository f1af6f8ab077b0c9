//! Some inputs that nobody wrote, for the targets of the monitor: its seeds, changed at random. They
//! are the same in every run, and few; libFuzzer tries other ones.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRng, TestRunner};
use smolvm_fuzz_bodies::{TARGETS, Target};

/// Inputs of each target.
const INPUTS: u32 = 2000;

/// Changes of one input at most.
const MAX_CHANGES: usize = 12;

/// Bytes of a piece that is put in, or repeated.
const MAX_PIECE_BYTES: usize = 40;

/// A change of an input.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
}

impl Change {
    fn apply(&self, input: &mut Vec<u8>) {
        if input.is_empty() {
            return;
        }
        let piece = |index: &Index, length: &usize| {
            let start = index.index(input.len());
            start..(start + length).min(input.len())
        };
        match self {
            Self::Set(index, byte) => {
                let place = index.index(input.len());
                input[place] = *byte;
            }
            Self::Insert(index, bytes) => {
                let place = index.index(input.len());
                drop(input.splice(place..place, bytes.iter().copied()));
            }
            Self::Remove(index, length) => {
                let piece = piece(index, length);
                drop(input.drain(piece));
            }
            Self::Repeat(index, length) => {
                let piece = piece(index, length);
                let copy = input[piece].to_vec();
                input.extend(copy);
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<Index>;
    let length = || 1..MAX_PIECE_BYTES;
    prop_oneof![
        4 => (place(), any::<u8>()).prop_map(|(place, byte)| Change::Set(place, byte)),
        2 => (place(), prop::collection::vec(any::<u8>(), length()))
            .prop_map(|(place, bytes)| Change::Insert(place, bytes)),
        1 => (place(), length()).prop_map(|(place, length)| Change::Remove(place, length)),
        1 => (place(), length()).prop_map(|(place, length)| Change::Repeat(place, length)),
    ]
}

fn input(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec(change(), 0..MAX_CHANGES);
    (prop::sample::select(seeds), changes).prop_map(|(mut input, changes)| {
        for change in changes {
            change.apply(&mut input);
        }
        input
    })
}

/// Runs a target on inputs that are made of its seeds; a failure tells the smallest one like it.
fn try_at_random(target: &Target) {
    let config = Config {
        cases: INPUTS,
        failure_persistence: None,
        ..Config::default()
    };
    let random = TestRng::deterministic_rng(config.rng_algorithm);
    let mut runner = TestRunner::new_with_rng(config, random);
    let tried = runner.run(&input((target.seeds)()), |input| {
        (target.run)(&input);
        Ok(())
    });
    tried.unwrap_or_else(|error| panic!("{}: {error}", target.name));
}

#[test]
fn monitors_targets_hold_for_changed_seeds() {
    let of_the_monitor = |target: &&Target| {
        let others = ["kernel_image", "monitor_control", "ports"];
        target.name.starts_with("virtio_") || others.contains(&target.name)
    };
    let targets: Vec<&Target> = TARGETS.iter().filter(of_the_monitor).collect();
    assert_eq!(targets.len(), 9);
    for target in targets {
        try_at_random(target);
    }
}
