//! What a warp group does on sm_90a: copies by tensor map, mbarriers, and products; and what it may not.

mod common;

use common::{fault, module};
use half::f16;
use reverie_ptx::{Arg, Launch, Memory, Result, TensorMap};

/// Rows of the first operand, rows of the second, columns of both.
const M: usize = 64;
const N: usize = 16;
const K: usize = 64;

/// out = A Bᵀ, of 64 x 16 values, by a block of one warp group. `%sh` is where A lies, B and the mbarrier after it.
const PRODUCT: &str = "
    .shared .align 1024 .b8 tile[10256];
    .reg .u32 %t, %i, %sh, %zero, %bar, %to, %lane, %row;
    .reg .u64 %a, %b, %da, %db, %out, %at;
    .reg .f32 %d<8>;
    .reg .pred %leads, %here, %add;
    mov.u32 %i, %tid.x;
    mov.u32 %sh, tile;
    add.u32 %bar, %sh, 10240;
    mov.u32 %zero, 0;
    setp.eq.u32 %leads, %i, 0;
    @%leads mbarrier.init.shared.b64 [%bar], 1;
    fence.proxy.async;
    bar.sync 0;
    mov.u64 %a, first;
    cvta.param.u64 %a, %a;
    mov.u64 %b, second;
    cvta.param.u64 %b, %b;
    add.u32 %to, %sh, 8192;
    @%leads mbarrier.arrive.expect_tx.shared.b64 _, [%bar], 10240;
    @%leads cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%sh], [%a, {%zero, %zero, %zero, %zero}], [%bar];
    @%leads cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%to], [%b, {%zero, %zero, %zero, %zero}], [%bar];
WAIT:
    mbarrier.try_wait.parity.shared.b64 %here, [%bar], 0;
    @!%here bra WAIT;
    shr.u32 %t, %sh, 4;
    cvt.u64.u32 %da, %t;
    add.u64 %da, %da, 0x4000004000010000;
    add.u64 %db, %da, 512;
    mov.f32 %d0, 0f3F800000;
    mov.f32 %d1, %d0;
    mov.f32 %d2, %d0;
    mov.f32 %d3, %d0;
    mov.f32 %d4, %d0;
    mov.f32 %d5, %d0;
    mov.f32 %d6, %d0;
    mov.f32 %d7, %d0;
    setp.ne.u32 %add, %zero, 0;
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {%d0, %d1, %d2, %d3, %d4, %d5, %d6, %d7}, %da, %db, %add, 1, 1, 0, 0;
    setp.eq.u32 %add, %zero, 0;
    add.u64 %da, %da, 2;
    add.u64 %db, %db, 2;
    wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {%d0, %d1, %d2, %d3, %d4, %d5, %d6, %d7}, %da, %db, %add, 1, 1, 0, 0;
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
    and.b32 %lane, %i, 31;
    shr.u32 %row, %i, 5;
    shl.b32 %row, %row, 4;
    shr.u32 %t, %lane, 2;
    add.u32 %row, %row, %t;
    and.b32 %lane, %lane, 3;
    ld.param.u64 %out, [out];
    mad.lo.u32 %t, %row, 8, %lane;
    mul.wide.u32 %at, %t, 8;
    add.u64 %out, %out, %at;
    st.global.v2.f32 [%out], {%d0, %d1};
    st.global.v2.f32 [%out+512], {%d2, %d3};
    st.global.v2.f32 [%out+32], {%d4, %d5};
    st.global.v2.f32 [%out+544], {%d6, %d7};
    ret;";

fn value(row: usize, column: usize) -> f16 {
    f16::from_f32(((7 * row + 3 * column) % 11) as f32 - 5.0)
}

/// Runs the body with the tensors, of which the second has two rows fewer than its box.
fn run(body: &str) -> Result<Vec<f32>> {
    let parameters = ".param .align 64 .b8 first[128], .param .align 64 .b8 second[128], .param .u64 out";
    let module = module(parameters, body);
    let mut memory = Memory::default();
    let mut map = |rows: usize, held: usize| {
        let values: Vec<f16> = (0..held * K).map(|i| value(i / K + rows, i % K)).collect();
        Arg::Map(TensorMap {
            buffer: memory.upload(&values),
            dimensions: [K as u64, 1, held as u64, 1],
            strides: [2 * K as u64; 3],
            shape: [K as u32, 1, rows as u32, 1],
        })
    };
    let maps = [map(M, M), map(N, N - 2)];
    let out = memory.allocate(4 * M * N);
    let launch = Launch { kernel: "test", grid: [1, 1, 1], block: [128, 1, 1], dynamic_shared: 0 };
    launch.run(&module, &memory, &[maps[0], maps[1], out.into()])?;
    memory.read(out)
}

/// With one part replaced.
fn with(from: &str, to: &str) -> String {
    assert!(PRODUCT.contains(from), "{from}");
    fault(run(&PRODUCT.replacen(from, to, 1)).map(drop))
}

#[test]
fn products_of_what_was_copied() {
    let out = run(PRODUCT).unwrap();
    for row in 0..M {
        for column in 0..N {
            // The first 32 columns of both; beyond the second's rows there are zeros.
            let of = |k| value(row + M, k).to_f32() * value(column + N, k).to_f32();
            let expected: f32 = if column < N - 2 { (0..32).map(of).sum() } else { 0.0 };
            assert_eq!(out[row * N + column], expected, "row {row}, column {column}");
        }
    }
}

#[test]
fn what_arrives_must_be_waited_for() {
    let wait = "mbarrier.try_wait.parity.shared.b64 %here, [%bar], 0;";
    assert!(with(wait, "setp.eq.u32 %here, %zero, 0;").contains("no wait at its mbarrier"));
    // More bytes than come.
    assert!(with("_, [%bar], 10240", "_, [%bar], 10368").contains("waits for ever"));
    assert!(with("bar.sync 0;", "").contains("may not be there yet"));
    assert!(with("init.shared.b64 [%bar], 1", "init.shared.b64 [%bar], 2").contains("waits for ever"));
}

#[test]
fn products_must_be_waited_for() {
    let wait = "wgmma.wait_group.sync.aligned 0;";
    assert!(with(wait, "").contains("a wgmma may still write"));
    assert!(with(wait, "wgmma.wait_group.sync.aligned 1;").contains("a wgmma may still write"));
    assert!(with("wgmma.commit_group.sync.aligned;", "").contains("a wgmma may still write"));
    let early = format!("mov.f32 %d3, %d0; {wait}");
    assert!(with(wait, &early).contains("a wgmma may still"));
}

#[test]
fn registers_of_products_need_a_fence() {
    assert!(with("wgmma.fence.sync.aligned;", "").contains("after the last wgmma.fence"));
    let between = "setp.eq.u32 %add, %zero, 0;";
    let late = format!(
        "{between} wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; mov.f32 %d3, 0f00000000;"
    );
    assert!(with(between, &late).contains("after the last wgmma.fence"));
}

#[test]
fn operands_may_not_be_overwritten() {
    let wait = "wgmma.wait_group.sync.aligned 0;";
    // Of the same warp, before and after it has waited; the others have not told.
    let again = "@%leads mbarrier.arrive.expect_tx.shared.b64 _, [%bar], 2048;
        @%leads cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%to], [%b, {%zero, %zero, %zero, %zero}], [%bar];";
    assert!(with(wait, &format!("{again} {wait}")).contains("a wgmma may still read"));
    let barrier = |sync: &str| run(&PRODUCT.replacen(wait, &format!("{wait} {sync} {again}"), 1)).map(drop);
    barrier("bar.sync 0;").unwrap();
    barrier("bar.sync 3, 128;").unwrap();
    let shared = "@%leads st.shared.u32 [%to], %zero;";
    assert!(with(wait, &format!("{shared} {wait}")).contains("a wgmma may still read"));
}

#[test]
fn all_warps_of_a_group_multiply() {
    let some = "setp.lt.u32 %here, %i, 96; @!%here bra DONE; wgmma.fence.sync.aligned;";
    let text = PRODUCT.replacen("wgmma.fence.sync.aligned;", some, 1).replacen(
        "and.b32 %lane",
        "DONE: and.b32 %lane",
        1,
    );
    assert!(fault(run(&text).map(drop)).contains("do not do the same wgmmas"));
}
