//! What a GPU would let pass is found: each kernel here does one thing wrong.

mod common;

use common::{fault, module, run};
use reverie_ptx::{Error, Launch, Memory, Module};

/// `%to` = `out` + 4 * `%i`, with `%i` the thread.
const ADDRESS: &str = "
    .reg .u32 %i, %v, %w;
    .reg .u64 %to, %offset;
    .reg .u32 %s;
    .reg .pred %p;
    mov.u32 %i, %tid.x;
    ld.param.u64 %to, [out];
    mul.wide.u32 %offset, %i, 4;
    add.u64 %to, %to, %offset;
";

fn one(body: &str, threads: u32, words: usize) -> String {
    let module = module(".param .u64 out", &format!("{ADDRESS}{body}\nret;"));
    let mut memory = Memory::default();
    let out = memory.allocate(4 * words);
    fault(run(&module, threads, &memory, &[out.into()]))
}

#[test]
fn accesses_to_global_memory_are_checked() {
    let beyond = one("st.global.u32 [%to], %i;", 5, 4);
    assert!(beyond.contains("4 bytes at 16 of a buffer of 16"), "{beyond}");
    let before = one("st.global.u32 [%to-4], %i;", 1, 4);
    assert!(before.contains("where no buffer is"), "{before}");
    let misaligned = one("st.global.u32 [%to+2], %i;", 1, 4);
    assert!(misaligned.contains("misaligned"), "{misaligned}");
    let vector = one("st.global.v2.u32 [%to+4], {%i, %i};", 1, 4);
    assert!(vector.contains("misaligned access of 8 bytes"), "{vector}");
    let unwritten = one("ld.global.u32 %v, [%to];", 1, 4);
    assert!(unwritten.contains("nobody wrote"), "{unwritten}");
    let twice = one("and.b32 %v, %i, 1; ld.param.u64 %to, [out]; st.global.u32 [%to], %i;", 2, 4);
    assert!(twice.contains("another thread"), "{twice}");
}

#[test]
fn accesses_to_shared_memory_are_checked() {
    let shared = ".shared .align 16 .b8 tile[512];\nmov.u32 %s, tile;\nmad.lo.u32 %s, %i, 4, %s;\n";
    let of = |body: &str, threads| one(&format!("{shared}{body}"), threads, 256);
    assert!(of("st.shared.u32 [%s+512], %i;", 1).contains("at 512 of 512"));
    assert!(of("ld.shared.u32 %v, [%s];", 1).contains("nobody wrote"));
    // The neighbour's value, without a barrier, with one, and with one that comes too late.
    let read = "xor.b32 %w, %i, %d; mov.u32 %s, tile; mad.lo.u32 %s, %w, 4, %s; ld.shared.u32 %v, [%s];";
    let declare = ".reg .u32 %d;\nmov.u32 %d, 32;\n";
    let missing = of(&format!("{declare}st.shared.u32 [%s], %i; {read}"), 64);
    assert!(missing.contains("no barrier between") || missing.contains("nobody wrote"), "{missing}");
    let again = format!(
        "{declare}st.shared.u32 [%s], %i; bar.sync 0; {read} \
                         mov.u32 %s, tile; mad.lo.u32 %s, %i, 4, %s; st.shared.u32 [%s], %v;"
    );
    assert!(of(&again, 64).contains("no barrier between"));
}

#[test]
fn threads_of_a_warp_need_its_barrier() {
    let body = |barrier: &str| {
        format!(
            "{ADDRESS}.shared .align 16 .b8 tile[128];
             mov.u32 %s, tile;
             mad.lo.u32 %s, %i, 4, %s;
             st.shared.u32 [%s], %i;
             {barrier}
             xor.b32 %w, %i, 1;
             mov.u32 %s, tile;
             mad.lo.u32 %s, %w, 4, %s;
             ld.shared.u32 %v, [%s];
             st.global.u32 [%to], %v;
             ret;"
        )
    };
    let try_with = |barrier| {
        let mut memory = Memory::default();
        let out = memory.allocate(128);
        let ran = run(&module(".param .u64 out", &body(barrier)), 32, &memory, &[out.into()]);
        (ran, memory, out)
    };
    assert!(fault(try_with("").0).contains("no barrier between"));
    for barrier in ["bar.warp.sync 0xffffffff;", "bar.sync 0;"] {
        let (ran, memory, out) = try_with(barrier);
        ran.unwrap();
        assert_eq!(memory.read::<u32>(out).unwrap()[..4], [1, 0, 3, 2]);
    }
}

#[test]
fn barriers_must_be_reached_by_all() {
    let some = "setp.lt.u32 %p, %i, 3; @%p bar.sync 0; st.global.u32 [%to], %i;";
    assert!(one(some, 64, 64).contains("barrier that thread 3 does not come to"));
    let apart = "setp.lt.u32 %p, %i, 32; @%p bra A; bar.sync 0; bra B; A: bar.sync 0; B: add.u32 %v, %i, %i;";
    assert!(one(apart, 64, 64).contains("barrier that thread"));
    let lanes = "setp.lt.u32 %p, %i, 3; @%p shfl.sync.idx.b32 %v, %i, 0, 31, 0xffffffff;";
    assert!(one(lanes, 32, 64).contains("only lanes 0x00000007"));
}

#[test]
fn branches_are_uniform_where_they_say_so() {
    let branch = |first: u32| {
        format!("setp.lt.u32 %p, %i, {first}; @%p bra.uni A; mov.u32 %v, 1; A: st.global.u32 [%to], %i;")
    };
    let run = |first: u32| {
        let module = module(".param .u64 out", &format!("{ADDRESS}{}\nret;", branch(first)));
        let mut memory = Memory::default();
        let out = memory.allocate(4 * 64);
        run(&module, 64, &memory, &[out.into()])
    };
    assert!(fault(run(33)).contains("does not take a bra.uni"));
    // Warps may differ.
    run(32).unwrap();
}

#[test]
fn copies_must_be_waited_for() {
    let body = |wait: &str| {
        format!(
            "{ADDRESS}.shared .align 16 .b8 tile[512];
             .reg .u64 %from;
             ld.param.u64 %from, [in];
             mul.wide.u32 %offset, %i, 16;
             add.u64 %from, %from, %offset;
             mov.u32 %s, tile;
             mad.lo.u32 %s, %i, 16, %s;
             cp.async.cg.shared.global [%s], [%from], 16;
             cp.async.commit_group;
             {wait}
             ld.shared.u32 %v, [%s+4];
             st.global.u32 [%to], %v;
             ret;"
        )
    };
    for (wait, waits) in [("cp.async.wait_group 0;", true), ("cp.async.wait_group 1;", false), ("", false)] {
        let mut memory = Memory::default();
        let input = memory.upload(&(0..128).collect::<Vec<u32>>());
        let out = memory.allocate(128);
        let module = module(".param .u64 out, .param .u64 in", &body(wait));
        let ran = run(&module, 32, &memory, &[out.into(), input.into()]);
        match waits {
            true => {
                ran.unwrap();
                assert_eq!(memory.read::<u32>(out).unwrap()[..3], [1, 5, 9]);
            }
            false => assert!(fault(ran).contains("cp.async still writes")),
        }
    }
}

#[test]
fn registers_and_loops_are_checked() {
    assert!(one("add.u32 %v, %w, 1;", 1, 1).contains("never wrote"));
    assert!(one("mov.u32 %v, 0; div.u32 %v, %i, %v;", 1, 1).contains("divides by zero"));
    let fall = module("", ".reg .u32 %a;\nmov.u32 %a, 1;");
    assert!(fault(run(&fall, 1, &Memory::default(), &[])).contains("past the end"));
}

#[test]
fn files_and_launches_are_refused_with_a_reason() {
    let refused = |body: &str| {
        let text =
            format!(".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{{\n{body}\n}}\n");
        Module::parse(&text).unwrap_err()
    };
    let line = |what: &str| Error::Syntax { line: 6, what: what.into() };
    assert_eq!(refused("frob.u32 %a, %b;"), line("%a is not declared"));
    assert_eq!(refused("bra NOWHERE;"), line("NOWHERE is not declared"));
    assert_eq!(refused(".reg .u32 %tid;"), line("%tid would hide the special register"));
    assert_eq!(refused(".reg .u32 %a<4000000000>;"), line("more than 65536 registers"));
    let huge = "18446744073709551615";
    let large = line("shared memory that is too large");
    assert_eq!(refused(&format!(".shared .b8 a[{huge}];")), large);
    assert_eq!(refused(&format!(".shared .align {huge} .b8 a[1];")), large);
    let entry = |head: &str| Module::parse(&format!(".version 7.0\n.visible .entry k{head}\n{{\nret;\n}}\n"));
    let parameter = entry(&format!("(.param .align {huge} .b8 a[{huge}])")).unwrap_err().to_string();
    assert!(parameter.contains("a parameter that is too large"), "{parameter}");
    assert!(entry(&format!("()\n.maxntid {huge}, {huge}, {huge}")).is_ok());
    let Error::Syntax { what, .. } = refused("frob.u32 1;") else { panic!() };
    assert!(what.contains("frob.u32 is not known"));

    let module = module(".param .u32 n", "ret;");
    let launch = Launch { kernel: "test", grid: [1, 1, 1], block: [2048, 1, 1], dynamic_shared: 0 };
    let says = |launch: Launch, args: &[reverie_ptx::Arg]| {
        launch.run(&module, &Memory::default(), args).unwrap_err().to_string()
    };
    assert!(says(launch, &[1u32.into()]).contains("2048 threads are too many"));
    let launch = Launch { block: [32, 1, 1], ..launch };
    assert!(says(launch, &[]).contains("1 parameters are wanted, 0 are given"));
    assert!(says(launch, &[1u64.into()]).contains("n has 4 bytes, not 8"));
    assert!(says(Launch { kernel: "other", ..launch }, &[]).contains("there are: test"));
    assert!(says(Launch { dynamic_shared: 16, ..launch }, &[1u32.into()]).contains("no dynamic shared"));
}
