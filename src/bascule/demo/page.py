"""The page that an example origin serves: it shows which origin answered, and talks to it over a WebSocket."""

from typing import Final

HTML: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Bascule demo: origin {name}</title>
<link rel="stylesheet" href="/style.css"></head>
<body class="{name}"><h1>Origin <b id="origin">{name}</b>, version <b id="version">{version}</b></h1>
<p>This page, its style sheet and its script came through the balancer, each from the server whose turn it was.</p>
<ul id="answers"></ul><p>WebSocket: <span id="socket">connecting</span></p>
<script src="/app.js"></script></body></html>
"""

STYLE: Final = """body { font: 16px/1.5 system-ui, sans-serif; margin: 3rem auto; max-width: 40rem; }
#socket.open { color: #060; }
"""

SCRIPT: Final = """const answers = document.getElementById("answers");
const state = document.getElementById("socket");
async function ask(number) {
  const response = await fetch("/api?" + number);
  const answer = await response.json();
  const item = document.createElement("li");
  item.textContent = `request ${number}: origin ${answer.origin}, version ${answer.version}`;
  answers.append(item);
}
async function load() {
  for (let number = 1; number <= 6; number++) await ask(number);
  const response = await fetch("/echo", { method: "POST", body: "posted" });
  document.body.dataset.posted = await response.text();
}
const socket = new WebSocket(`ws://${location.host}/socket`);
socket.onopen = () => socket.send("hello");
socket.onmessage = (event) => { state.textContent = "echo: " + event.data; state.className = "open"; };
socket.onerror = () => { state.textContent = "failed"; };
load().then(() => { document.body.dataset.done = answers.children.length; });
"""
