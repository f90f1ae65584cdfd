use reverie_kernels::cpu::*; use reverie_kernels::*;
fn main() { let s: usize = std::env::args().nth(1).unwrap().parse().unwrap(); let reps: usize = std::env::args().nth(2).unwrap().parse().unwrap();
 let th: usize = std::env::args().nth(3).map_or(0,|x|x.parse().unwrap());
 let b = CpuBackend::new(th); let w=|n:usize,k:f32|->Vec<f32>{let mut s=1u64;(0..n).map(|_|{s=s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);((s>>40) as f32/(1<<23) as f32-1.0)*k}).collect()};
 let mut ls=vec![b.prepare_conv2d(Conv2dDesc::same(3,64,3),&w(64*27,0.4),None,Activation::PRelu(vec![0.25;64])).unwrap()];
 for _ in 0..16 {ls.push(b.prepare_conv2d(Conv2dDesc::same(64,64,3),&w(64*64*9,0.1),None,Activation::PRelu(vec![0.25;64])).unwrap());}
 ls.push(b.prepare_conv2d(Conv2dDesc::same(64,48,3),&w(48*64*9,0.1),None,Activation::None).unwrap());
 let img=w(3*s*s,1.0); let mut best=f64::MAX; let mut lt=vec![f64::MAX;ls.len()+2];
 for _ in 0..reps { let t=std::time::Instant::now(); let base=b.tensor(img.clone(),[1,3,s,s]).unwrap(); let mut x=base.clone();
  for (i,l) in ls.iter().enumerate(){ let t=std::time::Instant::now(); x=b.conv2d(&x,l).unwrap(); lt[i]=lt[i].min(t.elapsed().as_secs_f64()); }
  let t2=std::time::Instant::now(); std::hint::black_box(b.pixel_shuffle_add_nearest(&x,4,&base).unwrap()); let n=lt.len(); lt[n-1]=lt[n-1].min(t2.elapsed().as_secs_f64());
  best=best.min(t.elapsed().as_secs_f64()); }
 println!("{s}: {:.2} ms; first {:.2} mid {:.2} {:.2} last {:.2} shuffle {:.2}",best*1e3,lt[0]*1e3,lt[1]*1e3,lt[8]*1e3,lt[17]*1e3,lt[19]*1e3); }
