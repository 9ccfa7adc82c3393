//! The fuzz targets on a stable toolchain. Every `cargo test` runs each for a moment, on the seeds and on random changes
//! of them. `HEADRACE_FUZZ_S=600` makes it ten minutes for each target.
//!
//! Memory is counted. What a target takes must be bounded by the length of its input.

#![allow(clippy::unwrap_used, reason = "all of this program is a test")]

#[path = "src/seeds.rs"]
#[allow(unreachable_pub, reason = "public in the package `headrace-fuzz`, which shares this file")]
mod seeds;
#[path = "src/targets.rs"]
#[allow(unreachable_pub, reason = "public in the package `headrace-fuzz`, which shares this file")]
mod targets;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::Instant;

/// The memory that any input may take. It covers schemas and rules that are read once.
const MEMORY_MAX_BYTES: usize = 64 << 20;
/// The memory that each byte of the input may take besides. A record of empty texts takes 24 bytes for each, and a
/// growing list twice that.
const MEMORY_PER_BYTE: usize = 100;
/// The longest input.
const INPUT_MAX_BYTES: usize = 256 << 10;
/// Larger seeds are used only now and then, because they take long.
const SMALL_BYTES: usize = 16 << 10;
/// How many small inputs there are for each large one.
const SMALL_FOR_ONE: u32 = 50;

#[global_allocator]
static MEMORY: Counting = Counting { used: AtomicUsize::new(0), most: AtomicUsize::new(0) };

/// The system's allocator. It also notes the most memory that was in use.
struct Counting {
    used: AtomicUsize,
    most: AtomicUsize,
}

impl Counting {
    fn took(&self, bytes: usize) {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.most.fetch_max(used, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on unchanged, and counting touches no memory that is allocated here.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.took(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.took(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.took(size);
        self.used.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::realloc`.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        self.used.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

/// One test for all targets, because they share one count of memory.
#[test]
fn no_input_breaks_a_target() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let seconds = std::env::var("HEADRACE_FUZZ_S").ok().map(|text| text.parse::<f64>().unwrap());
    for (name, target) in targets::ALL {
        let seeds = runtime.block_on(seeds::of(name));
        let time = Duration::from_secs_f64(seconds.unwrap_or(0.5));
        // As large a stack as the stages have.
        let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(2 << 20);
        let inputs = thread.spawn(move || run(name, target, &seeds, time)).unwrap().join().unwrap();
        println!("{name}: {inputs} inputs");
    }
}

fn run(name: &str, target: targets::Target, seeds: &[Vec<u8>], time: Duration) -> usize {
    let mut random = StdRng::seed_from_u64(if time.as_secs() > 5 { rand::random() } else { 7 });
    seeds.iter().for_each(|seed| check(name, target, seed));
    let (until, mut inputs) = (Instant::now() + time, seeds.len());
    while Instant::now() < until {
        let mut input = seeds.choose(&mut random).unwrap().clone();
        if input.len() > SMALL_BYTES && !random.random_ratio(1, SMALL_FOR_ONE) {
            continue;
        }
        for _ in 0..random.random_range(1..6) {
            change(&mut input, seeds, &mut random);
        }
        input.truncate(INPUT_MAX_BYTES);
        check(name, target, &input);
        inputs += 1;
    }
    inputs
}

/// Runs `target`. If it panics, keeps `input` in a file.
fn check(name: &str, target: targets::Target, input: &[u8]) {
    let before = MEMORY.used.load(Ordering::Relaxed);
    MEMORY.most.store(before, Ordering::Relaxed);
    if std::panic::catch_unwind(|| target(input)).is_err() {
        let kept = std::env::temp_dir().join(format!("headrace-fuzz-{name}"));
        std::fs::write(&kept, input).unwrap();
        panic!("{name} broke on the input in {}: {}", kept.display(), input[..input.len().min(500)].escape_ascii());
    }
    let took = MEMORY.most.load(Ordering::Relaxed) - before;
    assert!(
        took <= MEMORY_MAX_BYTES + MEMORY_PER_BYTE * input.len(),
        "{name} took {took} bytes for {}: {}",
        input.len(),
        input[..input.len().min(500)].escape_ascii()
    );
}

/// Makes one random change: of a bit or a byte, by a piece of this or another seed, by repetition, or by a number at its
/// limit.
fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut StdRng) {
    const PIECES: [&[u8]; 16] = [
        b"\"",
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b"\\u0000",
        b"\\ud800",
        b"\0",
        b"\xff",
        b"\xed\xa0\x80",
        b"\xe2\x80\xae",
        b"1e309",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x80\x80\x80\x80\x08",
        b"\r\n",
    ];
    let at = random.random_range(0..=input.len());
    let end = (at + random.random_range(0..40)).min(input.len());
    match random.random_range(0..7) {
        0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        1 if at < input.len() => input[at] = random.random(),
        2 => drop(input.drain(at..end)),
        3 => drop(input.splice(at..end, PIECES.choose(random).unwrap().iter().copied())),
        4 => {
            let piece = input[at..end].repeat(random.random_range(1..50));
            input.splice(at..at, piece);
        }
        5 => {
            let other = seeds.choose(random).unwrap();
            let from = random.random_range(0..=other.len());
            let to = (from + random.random_range(0..200)).min(other.len());
            input.splice(at..end, other[from..to].iter().copied());
        }
        _ => input.truncate(at),
    }
}
