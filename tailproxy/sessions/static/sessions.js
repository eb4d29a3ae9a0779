// Shows a recording, or a session that runs, in the player.
"use strict";

(() => {
  const place = document.getElementById("player");
  const options = { fit: "width", idleTimeLimit: 3, preload: true, terminalLineHeight: 1.2 };

  function say(text) {
    const line = document.createElement("p");
    line.textContent = text;
    place.replaceChildren(line);
  }

  // The lines as the player takes them. Others than tailproxy write rows first; without a terminal
  // nothing has made carriage returns of line ends.
  function read(text) {
    const lines = text.split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
    const header = lines[0];
    const turned = header.tailproxy === undefined && Boolean(header.srcNodeID);
    const terminal = Boolean(header.width && header.height);
    for (const event of lines.slice(1)) {
      if (event[1] === "r" && turned) {
        event[2] = event[2].split("x").reverse().join("x");
      } else if (event[1] === "o" && !terminal) {
        event[2] = event[2].replaceAll("\n", "\r\n");
      }
    }
    return lines;
  }

  async function recorded() {
    const answer = await fetch(place.dataset.cast);
    if (!answer.ok) {
      throw new Error(`the recording cannot be had: ${answer.status}`);
    }
    const lines = read(await answer.text());
    if (lines.length < 2) {
      say("There is nothing to see: nothing was written on the screen.");
      return;
    }
    AsciinemaPlayer.create({ data: () => lines }, place, options);
  }

  function live() {
    const source = { driver: "eventsource", url: place.dataset.live };
    AsciinemaPlayer.create(source, place, { ...options, autoPlay: true });
  }

  if (place !== null) {
    if (place.dataset.state === "live") {
      live();
    } else {
      recorded().catch((error) => say(error.message));
    }
  }
})();
