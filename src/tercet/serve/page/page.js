// Takes images by drop, paste, choice or camera, asks this server about them, and shows what it says.

import { drawn } from "/drawing.js";

const at = (id) => document.getElementById(id);
const LONGEST_LIST = 50;
let limits = { max_images: 1 };
let stream = null;
let asked = 0;

function tell(text) {
  at("status").textContent = text;
}

async function about() {
  const response = await fetch("/v1/model");
  const card = await response.json();
  limits = card.limits;
  at("name").textContent = card.model;
  document.title = card.model;
  const members = card.members.map((one) => one.name).join(", ");
  at("about").textContent = `${card.classes.length} ${card.sets ? "labels" : "classes"}; ${members}`;
}

async function ask(files) {
  const form = new FormData();
  for (const file of files) form.append("files", file, file.name || "image");
  const response = await fetch("/v1/predict", { method: "POST", body: form });
  const document = await response.json();
  if (response.ok) return document.answers;
  if (response.status === 503) throw new Error("The server is busy. Try again in a moment.");
  return files.map((file) => ({ file: file.name, error: document.error }));
}

async function show(list) {
  const files = Array.from(list);
  if (!files.length) return;
  const turn = ++asked;
  tell(files.length > 1 ? `Looking at ${files.length} images…` : "Looking at the image…");
  try {
    for (let first = 0; first < files.length; first += limits.max_images) {
      const part = files.slice(first, first + limits.max_images);
      const answers = await ask(part);
      at("answers").prepend(...part.map((file, index) => drawn(file, answers[index])));
      while (at("answers").children.length > LONGEST_LIST) at("answers").lastChild.remove();
    }
    if (turn === asked) tell("");
  } catch (error) {
    tell(error instanceof TypeError ? "The server cannot be reached." : error.message);
  }
}

function images(transfer) {
  return Array.from(transfer.files);
}

function onDrop() {
  const area = at("drop");
  addEventListener("dragover", (event) => {
    event.preventDefault();
    area.classList.add("over");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) area.classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    area.classList.remove("over");
    show(images(event.dataTransfer));
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData) show(images(event.clipboardData));
  });
}

function onChoice() {
  at("choose").addEventListener("click", () => at("files").click());
  for (const id of ["files", "photo"]) {
    at(id).addEventListener("change", () => {
      show(at(id).files);
      at(id).value = "";
    });
  }
}

function closeCamera() {
  for (const track of stream ? stream.getTracks() : []) track.stop();
  stream = null;
  at("viewfinder").hidden = true;
  at("camera").focus();
}

async function openCamera() {
  // Where the page may not use the camera (no https, no permission), a phone still has its own camera program.
  if (!navigator.mediaDevices) return at("photo").click();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    tell("There is no camera that this page may use.");
    return at("photo").click();
  }
  at("viewfinder").hidden = false;
  at("video").srcObject = stream;
  at("shoot").disabled = true;
  await new Promise((ready) => at("video").addEventListener("loadeddata", ready, { once: true }));
  at("shoot").disabled = false;
  at("shoot").focus();
}

function shoot() {
  const video = at("video");
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  closeCamera();
  canvas.toBlob((blob) => show([new File([blob], "camera.png", { type: "image/png" })]), "image/png");
}

onDrop();
onChoice();
at("camera").addEventListener("click", openCamera);
at("shoot").addEventListener("click", shoot);
at("stop").addEventListener("click", closeCamera);
about().catch(() => tell("The server cannot be reached."));
