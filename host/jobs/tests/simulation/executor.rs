//! Tasks without threads: whoever drives them says which one goes on.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Task {
    name: String,
    future: Pin<Box<dyn Future<Output = ()>>>,
    woken: Arc<Flag>,
}

#[derive(Default)]
pub struct Executor(Vec<Task>);

impl Executor {
    pub fn spawn(&mut self, name: String, future: impl Future<Output = ()> + 'static) {
        self.0.push(Task { name, future: Box::pin(future), woken: Arc::new(Flag(AtomicBool::new(true))) });
    }

    /// Which tasks have been woken.
    pub fn ready(&self) -> Vec<usize> {
        let woken = |task: &Task| task.woken.0.load(Ordering::Relaxed);
        (0..self.0.len()).filter(|index| woken(&self.0[*index])).collect()
    }

    pub fn name(&self, task: usize) -> &str {
        &self.0[task].name
    }

    /// Names of all that have not ended.
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|task| task.name.as_str()).collect()
    }

    /// Lets a task go on to its next wait or its end.
    pub fn poll(&mut self, task: usize) {
        let Task { future, woken, .. } = &mut self.0[task];
        woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(woken.clone());
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            drop(self.0.remove(task));
        }
    }
}

/// Lets others go first.
pub async fn pause() {
    let mut paused = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut paused, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// What a future has at once, if anything.
pub async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
