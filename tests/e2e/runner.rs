//! Runs the scenarios that the arguments choose, some at once, and prints a line for each.

use std::collections::VecDeque;
use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::command::{Helm, setting};
use super::world::World;

/// What one user does, and what must come of it.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// A sentence, without spaces.
    pub name: &'static str,
    /// With each of these Helms.
    pub helms: &'static [Helm],
    /// Panics where something is not as it must be.
    pub run: for<'a> fn(&'a World) -> Pin<Box<dyn Future<Output = ()> + 'a>>,
    /// Not beside others: it disturbs the whole cluster.
    pub alone: bool,
}

pub const BOTH: &[Helm] = &[Helm::Three, Helm::Four];
// What is about pods and the gate's own doings, and not about how a Helm applies objects, waits or rolls back, is run
// with one of them: some with the one, some with the other.
pub const THREE: &[Helm] = &[Helm::Three];
pub const FOUR: &[Helm] = &[Helm::Four];

/// `scenario!(BOTH, function)`: the function, an `async fn(&World)`, under its own name.
macro_rules! scenario {
    ($helms:expr, $run:ident) => {
        $crate::runner::Scenario {
            name: stringify!($run),
            helms: $helms,
            run: |world| Box::pin($run(world)),
            alone: false,
        }
    };
}
pub(crate) use scenario;

/// More than any scenario needs on a slow machine.
const LIMIT: Duration = Duration::from_secs(15 * 60);

type Chosen = (Scenario, Helm);

/// Arguments are parts of names: a scenario that contains one of them is run, all without any. One that no
/// name contains is an error.
pub fn run(scenarios: Vec<Scenario>) -> ExitCode {
    let (options, filters): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with('-'));
    let mut chosen = VecDeque::new();
    for scenario in scenarios {
        for &helm in scenario.helms {
            let name = full_name(&(scenario, helm));
            if filters.is_empty() || filters.iter().any(|filter| name.contains(filter)) {
                chosen.push_back((scenario, helm));
            }
        }
    }
    let names: Vec<String> = chosen.iter().map(full_name).collect();
    let idle = |filter: &&String| !names.iter().any(|name| name.contains(*filter));
    if let Some(filter) = filters.iter().find(idle) {
        eprintln!("no scenario's name contains {filter:?}: see -- --list");
        return ExitCode::FAILURE;
    }
    if options.iter().any(|option| option == "--list") {
        names.iter().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    // Each failure is told in one piece, with what led to it.
    panic::set_hook(Box::new(|_| {}));
    let total = chosen.len();
    let jobs = setting("E2E_JOBS").and_then(|jobs| jobs.parse().ok()).unwrap_or(4);
    let (alone, beside) = chosen.into_iter().partition(|(scenario, _)| scenario.alone);
    let failed = work(beside, jobs) + work(alone, 1);
    println!("{} passed, {failed} failed", total - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn full_name((scenario, helm): &Chosen) -> String {
    format!("{} ({helm})", scenario.name)
}

/// Runs them, so many at once, and returns how many failed.
fn work(chosen: VecDeque<Chosen>, jobs: usize) -> usize {
    let (queue, failed) = (Mutex::new(chosen), Mutex::new(0));
    let next = || queue.lock().unwrap().pop_front();
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(one) = next() {
                    let began = Instant::now();
                    let problem = attempt(&one);
                    let verdict = if problem.is_some() { "FAILED" } else { "ok" };
                    let seconds = began.elapsed().as_secs_f64();
                    let mut out = std::io::stdout().lock();
                    // Nobody to tell it if this fails.
                    let _ = writeln!(out, "{verdict:6} {seconds:6.1} s  {}", full_name(&one));
                    if let Some(problem) = problem {
                        let _ = writeln!(out, "{problem}\n");
                        *failed.lock().unwrap() += 1;
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap()
}

/// What went wrong, with all that helps to find out why.
fn attempt((scenario, helm): &Chosen) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = match caught(World::new(*helm)).await {
            Ok(world) => world,
            Err(panic) => return Some(panic),
        };
        let scenario = tokio::time::timeout(LIMIT, (scenario.run)(&world));
        let problem = match caught(scenario).await {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(format!("not over after {LIMIT:?}")),
            Err(panic) => Some(panic),
        };
        let story = async |problem: String| {
            let story = caught(world.tell(&problem)).await.unwrap_or_else(|panic| panic);
            format!("{problem}\n{story}")
        };
        let told = match problem {
            Some(problem) => Some(story(problem).await),
            None => None,
        };
        // The cluster may be what failed.
        let _ = caught(world.end()).await;
        told
    })
}

/// The message of a panic in place of the panic.
async fn caught<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = Box::pin(future);
    std::future::poll_fn(|context| {
        let polled = panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        match polled {
            Ok(polled) => polled.map(Ok),
            Err(panic) => std::task::Poll::Ready(Err(message(&*panic))),
        }
    })
    .await
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}
