//! Runs each target for a while on a stable compiler: its corpus first, then inputs made of that by chance.
//! `make fuzz-smoke`; what is to be known of it stands in docs/hacking.md.
//!
//! The generator is seeded, so a failure comes again: FUZZ_SEED (1) and FUZZ_SECONDS (10) for each target. What fails is
//! written to `fuzz/artifacts/TARGET/`; FUZZ_INPUT runs one file alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a target fails by panicking")]

#[allow(unreachable_pub, reason = "fuzz/Cargo.toml makes a library of it")]
mod targets;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Inputs are at most so long.
const MAX_LENGTH: usize = 16 << 10;
/// No input may take more of the processor's time, in a build that is not optimised.
const MAX_TIME: Duration = Duration::from_secs(5);
/// No input may have more allocated at one time.
const MAX_MEMORY: usize = 32 << 20;

macro_rules! smoke {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })*

        #[test]
        fn every_target_is_run() {
            let run = [$(stringify!($name)),*];
            assert!(targets::TARGETS.iter().map(|(name, _)| *name).eq(run), "smoke.rs lists {run:?}");
            let harnesses = |name: &str| root().join(format!("fuzz_targets/{name}.rs")).exists();
            assert!(run.iter().all(|name| harnesses(name)), "each has its file in fuzz_targets");
        }
    };
}

smoke!(
    h1_request_head,
    h1_origin_response,
    chunked_request,
    chunked_response,
    hpack,
    h2_frames,
    configuration,
    purge_log,
    disk_header,
    cache_control_and_vary,
    expression,
    proxy_header,
    template,
);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

fn run(name: &str) {
    let (_, target) = targets::TARGETS.iter().find(|(target, _)| *target == name).expect("a target");
    if let Ok(path) = std::env::var("FUZZ_INPUT") {
        return target(&std::fs::read(path).expect("the input can be read"));
    }
    let corpus = corpus(name);
    corpus.iter().for_each(|input| try_one(name, *target, input));
    let (seed, seconds) = (number("FUZZ_SEED", 1), number("FUZZ_SECONDS", 10));
    let mut random = fastrand::Rng::with_seed(seed);
    let (until, mut inputs) = (Instant::now() + Duration::from_secs(seconds), 0_u64);
    while Instant::now() < until {
        for _ in 0..64 {
            try_one(name, *target, &mutated(&corpus, &mut random));
            inputs += 1;
        }
    }
    println!("{name}: {inputs} inputs in {seconds} s of seed {seed}, {} in the corpus", corpus.len());
}

/// What is checked in for a target, in the order of the files' names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = root().join("corpus").join(name);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", directory.display());
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn try_one(name: &str, target: fn(&[u8]), input: &[u8]) {
    let (started, before) = (processor_time(), ALLOCATED.get());
    MOST.set(before);
    let result = catch_unwind(AssertUnwindSafe(|| target(input)));
    let (took, memory) = (processor_time() - started, MOST.get().saturating_sub(before));
    let fault = match result {
        Err(_) => "it panicked (see above)".to_owned(),
        Ok(()) if took > MAX_TIME => format!("it took {took:?}"),
        Ok(()) if memory > MAX_MEMORY => format!("it had {memory} bytes allocated"),
        Ok(()) => return,
    };
    let directory = root().join("artifacts").join(name);
    let file = directory.join(format!("{:08x}", crc32fast::hash(input)));
    std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&file, input)).expect("the input is kept");
    panic!("{fault}; again with FUZZ_INPUT={} cargo test --test fuzz {name}", file.display());
}

/// Of this thread: what else the machine does is no matter.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// One of the corpus, changed in a few places.
fn mutated(corpus: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut input = random.choice(corpus).expect("it is not empty").clone();
    for _ in 0..random.usize(1..=8) {
        let (at, other) = (random.usize(..=input.len()), random.choice(corpus).expect("it is not empty"));
        let end = at + random.usize(..=(input.len() - at).min(32));
        match random.u8(..8) {
            // A byte becomes another, or one near it.
            0 | 1 => input.get_mut(at).into_iter().for_each(|byte| *byte = random.u8(..)),
            2 => input.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << random.u8(..8)),
            3 => drop(input.drain(at..end)),
            // Something is there again, many times even.
            4 => {
                let piece = input[at..end].to_vec();
                let times = if random.u8(..16) == 0 { 1000 } else { 1 };
                (0..times).for_each(|_| drop(input.splice(at..at, piece.iter().copied())));
            }
            5 => input.insert(at, *random.choice(b"\0\t\n\r \",.:;=%*/\x7f\x80\xff").expect("it is not empty")),
            // Something of another's.
            6 => {
                let from = random.usize(..=other.len());
                let to = from + random.usize(..=(other.len() - from).min(64));
                drop(input.splice(at..end, other[from..to].iter().copied()));
            }
            _ => input.truncate(at.max(1)),
        }
        input.truncate(MAX_LENGTH);
    }
    input
}

/// Counts what each thread has allocated.
struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: all is done by the system's allocator, as it was asked for; the counters are plain numbers of the thread and
// allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATED.try_with(|allocated| {
            allocated.set(allocated.get().wrapping_add(layout.size()));
            let _ = MOST.try_with(|most| most.set(most.get().max(allocated.get())));
        });
        // SAFETY: the caller's promises are those that `System` wants.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = ALLOCATED.try_with(|allocated| allocated.set(allocated.get().wrapping_sub(layout.size())));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
