//! Instructions give what the PTX ISA says.

mod common;

use common::{module, run};
use half::f16;
use reverie_ptx::{Element, Launch, Memory};

/// Runs a body once per thread; `%a`, `%b`, `%c` are the thread's inputs, `%d` its result.
fn map(body: &str, a: &[u32], b: &[u32], c: &[u32]) -> Vec<u32> {
    let declared = "
        .reg .u32 %i, %a, %b, %c, %d, %e;
        .reg .f32 %f, %g;
        .reg .b16 %h, %k;
        .reg .u64 %at, %offset, %wide;
        .reg .pred %p, %q;
        mov.u32 %i, %tid.x;
        mul.wide.u32 %offset, %i, 4;";
    let read: String = ["a", "b", "c"]
        .map(|name| {
            format!("ld.param.u64 %at, [{name}]; add.u64 %at, %at, %offset; ld.global.u32 %{name}, [%at];\n")
        })
        .concat();
    let write = "ld.param.u64 %at, [out]; add.u64 %at, %at, %offset; st.global.u32 [%at], %d; ret;";
    let parameters = ".param .u64 a, .param .u64 b, .param .u64 c, .param .u64 out";
    let module = module(parameters, &format!("{declared}{read}{body}\n{write}"));
    let mut memory = Memory::default();
    let padded =
        |values: &[u32]| (0..a.len()).map(|i| values.get(i).copied().unwrap_or(0)).collect::<Vec<_>>();
    let [a_in, b_in, c_in] = [a, b, c].map(|values| memory.upload(&padded(values)));
    let out = memory.allocate(4 * a.len());
    run(&module, a.len() as u32, &memory, &[a_in.into(), b_in.into(), c_in.into(), out.into()]).unwrap();
    memory.read(out).unwrap()
}

fn floats(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn integers() {
    let minus = |x: u32| x.wrapping_neg();
    assert_eq!(
        map("shr.s32 %d, %a, %b;", &[minus(8), minus(8), 8], &[1, 40, 2], &[]),
        [minus(4), u32::MAX, 2]
    );
    assert_eq!(map("shl.b32 %d, %a, %b;", &[3, 3], &[4, 32], &[]), [48, 0]);
    assert_eq!(map("mul.hi.u32 %d, %a, %b;", &[u32::MAX], &[u32::MAX], &[]), [u32::MAX - 1]);
    assert_eq!(map("mad.lo.s32 %d, %a, %b, %c;", &[minus(3)], &[5], &[7]), [minus(8)]);
    assert_eq!(map("div.s32 %d, %a, %b;", &[minus(7)], &[2], &[]), [minus(3)]);
    assert_eq!(
        map(
            "mul.wide.s32 %wide, %a, %b; shr.u64 %wide, %wide, 32; cvt.u32.u64 %d, %wide;",
            &[minus(1)],
            &[5],
            &[]
        ),
        [u32::MAX]
    );
    assert_eq!(map("lop3.b32 %d, %a, %b, %c, 0xe8;", &[0b1100], &[0b1010], &[0b0110]), [0b1110]);
    assert_eq!(map("prmt.b32 %d, %a, %b, %c;", &[0x3322_1180], &[0x7766_5544], &[0x8417]), [0xff44_1177]);
    assert_eq!(map("cvt.s32.s8 %d, %a;", &[0x1ff], &[], &[]), [u32::MAX]);
    assert_eq!(map("cvt.sat.u8.s32 %d, %a;", &[300, minus(4)], &[], &[]), [255, 0]);
    let chosen = map(
        "setp.gt.s32 %q, %b, 0; setp.lt.and.s32 %p, %a, 5, %q; selp.b32 %d, 1, 2, %p;",
        &[3, 3, 9],
        &[1, 0, 1],
        &[],
    );
    assert_eq!(chosen, [1, 2, 2]);
}

#[test]
fn floats_round_and_ignore_what_is_no_number() {
    let as_floats = |body: &str, a: &[f32], b: &[f32]| -> Vec<f32> {
        map(body, &floats(a), &floats(b), &[]).into_iter().map(f32::from_bits).collect()
    };
    assert_eq!(as_floats("max.f32 %d, %a, %b;", &[f32::NAN, 1.0], &[2.0, f32::NAN]), [2.0, 1.0]);
    assert_eq!(
        as_floats("fma.rn.f32 %d, %a, %b, 0fBF800000;", &[1.0 + f32::EPSILON], &[1.0 + f32::EPSILON]),
        [(1.0 + f32::EPSILON).mul_add(1.0 + f32::EPSILON, -1.0)]
    );
    assert_eq!(
        as_floats("ex2.approx.ftz.f32 %d, %a;", &[3.0, f32::NEG_INFINITY, -140.0], &[]),
        [8.0, 0.0, 0.0]
    );
    assert_eq!(
        map("cvt.rzi.s32.f32 %d, %a;", &floats(&[-2.7, 3e9, f32::NAN]), &[], &[]),
        [(-2i32) as u32, i32::MAX as u32, 0]
    );
    assert_eq!(map("cvt.rni.u32.f32 %d, %a;", &floats(&[2.5, 3.5, -1.0]), &[], &[]), [2, 4, 0]);
    // Halfway between two halves: to the even one; beyond the largest: infinity.
    let halves = map(
        "cvt.rn.f16.f32 %h, %a; cvt.u32.u16 %d, %h;",
        &floats(&[2049.0, 2051.0, 70000.0, 6e-8]),
        &[],
        &[],
    );
    let expected =
        [2048.0, 2052.0, f32::INFINITY, 5.960_464_5e-8].map(|x| u32::from(f16::from_f32(x).to_bits()));
    assert_eq!(halves, expected);
    let packed =
        map("cvt.rn.f16x2.f32 %d, %a, %b; add.rn.f16x2 %d, %d, %d;", &floats(&[1.5]), &floats(&[-0.25]), &[]);
    let half = |x: f32| u32::from(f16::from_f32(x).to_bits());
    assert_eq!(packed, [half(3.0) << 16 | half(-0.5)]);
    let apart = map("mov.b32 {%h, %k}, %a; mov.b32 %d, {%k, %h};", &[0x1234_5678], &[], &[]);
    assert_eq!(apart, [0x5678_1234]);
}

#[test]
fn threads_part_and_meet() {
    // The loop takes as many turns as the thread's number; the sum over the warp needs all lanes again.
    let body = "
        mov.u32 %d, 0;
        mov.u32 %e, 0;
        LOOP:
        setp.ge.u32 %p, %e, %i;
        @%p bra DONE;
        add.u32 %d, %d, 2;
        add.u32 %e, %e, 1;
        bra LOOP;
        DONE:
        shfl.sync.bfly.b32 %e, %d, 16, 31, 0xffffffff;
        add.u32 %d, %d, %e;
        shfl.sync.bfly.b32 %e, %d, 8, 31, 0xffffffff;
        add.u32 %d, %d, %e;
        shfl.sync.bfly.b32 %e, %d, 4, 31, 0xffffffff;
        add.u32 %d, %d, %e;
        shfl.sync.bfly.b32 %e, %d, 2, 31, 0xffffffff;
        add.u32 %d, %d, %e;
        shfl.sync.bfly.b32 %e, %d, 1, 31, 0xffffffff;
        add.u32 %d, %d, %e;";
    assert_eq!(map(body, &[0; 32], &[], &[]), [2 * (0..32).sum::<u32>(); 32]);
    let up = map("shfl.sync.up.b32 %d, %i, 3, 0, 0xffffffff;", &[0; 32], &[], &[]);
    assert_eq!((up[0], up[2], up[3], up[31]), (0, 2, 0, 28));
    let down = map("shfl.sync.down.b32 %d, %i, 3, 31, 0xffffffff;", &[0; 32], &[], &[]);
    assert_eq!((down[0], down[28], down[29], down[31]), (3, 31, 29, 31));
    // Segments of eight lanes.
    let broadcast = map("shfl.sync.idx.b32 %d, %i, 1, 0x181f, 0xffffffff;", &[0; 32], &[], &[]);
    assert_eq!((broadcast[0], broadcast[9], broadcast[31]), (1, 9, 25));
}

#[test]
fn atomics_add_up_over_the_grid() {
    let module = module(
        ".param .u64 out",
        ".reg .u64 %to;\n.reg .f32 %one;\nld.param.u64 %to, [out];\nmov.f32 %one, 0f3F800000;\nred.global.add.f32 [%to], %one;\nret;",
    );
    let mut memory = Memory::default();
    let out = memory.upload(&[0f32]);
    Launch { kernel: "test", grid: [5, 2, 1], block: [48, 1, 1], dynamic_shared: 0 }
        .run(&module, &memory, &[out.into()])
        .unwrap();
    assert_eq!(memory.read::<f32>(out).unwrap(), [480.0]);
}

/// 16 x 16 times 8 x 16 transposed, through shared memory, `ldmatrix` and `mma`.
#[test]
fn matrices_multiply() {
    let body = "
        .shared .align 16 .b8 first[512];
        .shared .align 16 .b8 second[256];
        .reg .u32 %i, %to, %row, %column, %pair, %group, %at, %x<4>, %y<2>;
        .reg .u64 %a, %b, %d, %offset;
        .reg .f32 %s<4>;
        .reg .b32 %v<4>, %w<2>;
        mov.u32 %i, %tid.x;
        ld.param.u64 %a, [a];
        ld.param.u64 %b, [b];
        // Each lane brings 16 bytes of A, and 8 of B.
        mul.wide.u32 %offset, %i, 16;
        add.u64 %a, %a, %offset;
        mov.u32 %to, first;
        mad.lo.u32 %to, %i, 16, %to;
        ld.global.v4.b32 {%v0, %v1, %v2, %v3}, [%a];
        st.shared.v4.b32 [%to], {%v0, %v1, %v2, %v3};
        mul.wide.u32 %offset, %i, 8;
        add.u64 %b, %b, %offset;
        mov.u32 %to, second;
        mad.lo.u32 %to, %i, 8, %to;
        ld.global.v2.b32 {%w0, %w1}, [%b];
        st.shared.v2.b32 [%to], {%w0, %w1};
        bar.sync 0;
        // Matrix i / 8 of A begins at row 8 (i / 8 % 2) and column 8 (i / 16).
        and.b32 %row, %i, 15;
        shr.u32 %column, %i, 4;
        mov.u32 %at, first;
        mad.lo.u32 %at, %row, 32, %at;
        mad.lo.u32 %at, %column, 16, %at;
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%x0, %x1, %x2, %x3}, [%at];
        and.b32 %row, %i, 7;
        shr.u32 %column, %i, 3;
        and.b32 %column, %column, 1;
        mov.u32 %at, second;
        mad.lo.u32 %at, %row, 32, %at;
        mad.lo.u32 %at, %column, 16, %at;
        ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%y0, %y1}, [%at];
        mov.f32 %s0, 0f3F800000;
        mov.f32 %s1, %s0;
        mov.f32 %s2, %s0;
        mov.f32 %s3, %s0;
        mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%s0, %s1, %s2, %s3}, {%x0, %x1, %x2, %x3}, {%y0, %y1}, {%s0, %s1, %s2, %s3};
        ld.param.u64 %d, [d];
        shr.u32 %group, %i, 2;
        and.b32 %pair, %i, 3;
        mad.lo.u32 %at, %group, 4, %pair;
        mul.wide.u32 %offset, %at, 8;
        add.u64 %d, %d, %offset;
        st.global.v2.f32 [%d], {%s0, %s1};
        st.global.v2.f32 [%d+256], {%s2, %s3};
        ret;";
    let module = module(".param .u64 a, .param .u64 b, .param .u64 d", body);
    let value = |i: usize, by: usize| f16::from_f32(((i * by) % 23) as f32 / 8.0 - 1.25);
    let a: Vec<f16> = (0..256).map(|i| value(i, 7)).collect();
    let b: Vec<f16> = (0..128).map(|i| value(i, 5)).collect();
    let mut memory = Memory::default();
    let (a_in, b_in, out) = (memory.upload(&a), memory.upload(&b), memory.allocate(4 * 128));
    run(&module, 32, &memory, &[a_in.into(), b_in.into(), out.into()]).unwrap();
    let product: Vec<f32> = memory.read(out).unwrap();
    for row in 0..16 {
        for column in 0..8 {
            let sum: f32 = (0..16).map(|k| a[16 * row + k].to_f32() * b[16 * column + k].to_f32()).sum();
            assert_eq!(product[8 * row + column], sum + 1.0, "{row} {column}");
        }
    }
}

#[test]
fn transposed_matrices_are() {
    let body = "
        .shared .align 16 .b8 tile[128];
        .reg .u32 %i, %at, %v;
        .reg .u64 %in, %out, %offset;
        mov.u32 %i, %tid.x;
        ld.param.u64 %in, [in];
        ld.param.u64 %out, [out];
        mul.wide.u32 %offset, %i, 4;
        add.u64 %in, %in, %offset;
        add.u64 %out, %out, %offset;
        mov.u32 %at, tile;
        mad.lo.u32 %at, %i, 4, %at;
        ld.global.u32 %v, [%in];
        st.shared.u32 [%at], %v;
        bar.sync 0;
        and.b32 %at, %i, 7;
        mov.u32 %v, tile;
        mad.lo.u32 %at, %at, 16, %v;
        ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 %v, [%at];
        st.global.u32 [%out], %v;
        ret;";
    let module = module(".param .u64 in, .param .u64 out", body);
    let mut memory = Memory::default();
    let input = memory.upload(&(0..64).collect::<Vec<u16>>());
    let out = memory.allocate(128);
    run(&module, 32, &memory, &[input.into(), out.into()]).unwrap();
    let transposed: Vec<u16> = memory.read(out).unwrap();
    assert!((0..64).all(|i| usize::from(transposed[i]) == 8 * (i % 8) + i / 8), "{transposed:?}");
    assert_eq!(<u16 as Element>::read(&[1, 2]), 513);
}
