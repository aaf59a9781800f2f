//! A way to a server on which answers get lost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the proxy does once the words to wait for are on their way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The message arrives; its answer and everything after it does not.
    Silence,
    /// The message arrives; its connection ends before the answer, and others work.
    Close,
    /// The message is held back until [`Proxy::deliver`], after its connection has ended; others work.
    Late,
}

/// A message that is held back, with the server's half-connections that it belongs to.
type Late = Arc<Mutex<Option<(OwnedWriteHalf, OwnedReadHalf, Vec<u8>)>>>;

/// A proxy that loses the answer to one message that holds some bytes.
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    met: watch::Receiver<bool>,
    late: Late,
}

struct Plan {
    words: Vec<u8>,
    loss: Loss,
    /// How many such messages come before it.
    skip: AtomicUsize,
    met: watch::Sender<bool>,
    late: Late,
}

impl Proxy {
    /// In front of the server at this port of the loopback interface.
    pub async fn new(server: u16, words: &[u8], loss: Loss) -> Proxy {
        Proxy::after(0, server, words, loss).await
    }

    /// The same, but for as many of these messages that go their way before.
    pub async fn after(skip: usize, server: u16, words: &[u8], loss: Loss) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (met, seen) = watch::channel(false);
        let late = Arc::new(Mutex::new(None));
        let plan = Arc::new(Plan {
            words: words.to_vec(),
            loss,
            skip: skip.into(),
            met,
            late: late.clone(),
        });
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, server, plan.clone()));
            }
        });
        Proxy { port, met: seen, late }
    }

    /// Waits until the message that it waits for came by.
    pub async fn met(&self) {
        self.met.clone().wait_for(|met| *met).await.unwrap();
    }

    /// Delivers what was held back, and waits until the server has answered it.
    pub async fn deliver(&self) {
        let (mut server, mut answers, message) = self.late.lock().unwrap().take().unwrap();
        server.write_all(&message).await.unwrap();
        assert_ne!(answers.read(&mut [0; 1024]).await.unwrap(), 0);
    }
}

impl Plan {
    fn is_due(&self) -> bool {
        let one_less = |skip: usize| skip.checked_sub(1);
        self.skip.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_err()
    }
}

async fn serve(client: TcpStream, port: u16, plan: Arc<Plan>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let ((mut asks, mut hears), (mut answers, mut takes)) =
        (client.into_split(), server.into_split());
    let (mut asked, mut answer) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = asks.read(&mut asked) => {
                let Ok(n @ 1..) = read else { return };
                let message = &asked[..n];
                let there = message.windows(plan.words.len()).any(|words| words == plan.words);
                if there && !*plan.met.borrow() && plan.is_due() {
                    plan.met.send_replace(true);
                    match plan.loss {
                        Loss::Late => {
                            let late = (takes, answers, message.to_vec());
                            *plan.late.lock().unwrap() = Some(late);
                            return;
                        }
                        Loss::Close => {
                            let _ = takes.write_all(message).await;
                            // it is carried out before the connection ends
                            let _ = answers.read(&mut answer).await;
                            return;
                        }
                        Loss::Silence => {}
                    }
                }
                if takes.write_all(message).await.is_err() { return }
            }
            read = answers.read(&mut answer) => {
                let Ok(n @ 1..) = read else { return };
                if plan.loss == Loss::Silence && *plan.met.borrow() { continue }
                if hears.write_all(&answer[..n]).await.is_err() { return }
            }
        }
    }
}
