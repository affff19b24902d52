//! A state that somebody sends. Knows the fuzzer only: what is done with the bytes is in [`tests::fs_fuzz::states`].

#![no_main]

use libfuzzer_sys::fuzz_target;
use tests::fs_fuzz::arena::Arena;
use tests::fs_fuzz::states::run;

thread_local! {
    static ARENA: Arena = Arena::new().expect("the share");
}

fuzz_target!(|input: &[u8]| {
    ARENA.with(|arena| run(arena, input)).expect("no defect");
});
