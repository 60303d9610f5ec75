// Full screen, where the browser has it (an iPhone has not).

/** `button` shows `element` on the whole screen, and back; without full screen it is hidden. */
export function withFullScreen(button, element) {
  button.hidden = !document.fullscreenEnabled;
  button.addEventListener('click', () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else element.requestFullscreen();
  });
  document.addEventListener('fullscreenchange', () => {
    const name = document.fullscreenElement ? 'Leave full screen' : 'Full screen';
    button.setAttribute('aria-label', name);
    button.title = name;
  });
}
