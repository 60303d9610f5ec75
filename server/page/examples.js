// Example images, with texts for each task that they suit.

export const EXAMPLES = [
  { file: 'scene.jpg', name: 'Garden', detect: ['dog', 'bicycle', 'house', 'airplane', 'cat', 'banana'] },
  {
    file: 'sea.jpg', name: 'Sea',
    detect: ['sailboat', 'rocket', 'airplane', 'star', 'penguin', 'umbrella'],
    classify: ['sailboat', 'guitar', 'pizza'],
    similarity: ['a sailboat', 'a guitar'],
  },
  { file: 'room.jpg', name: 'Room', detect: ['cat', 'camera', 'guitar', 'key', 'chair', 'elephant'] },
  {
    file: 'object.jpg', name: 'Dog',
    classify: ['dog', 'cat', 'guitar', 'rocket'],
    similarity: ['a puppy', 'a kitten', 'a rocket'],
  },
  {
    file: 'elephant.jpg', name: 'Elephant',
    classify: ['elephant', 'penguin', 'bus'],
    similarity: ['an elephant', 'a bus'],
  },
];

/** Show the `EXAMPLES` for `task` as buttons in `place`; `choose` is called with the one that is pressed. */
export function offer(place, task, choose) {
  place.replaceChildren(...EXAMPLES.filter((example) => example[task]).map((example) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.dataset.file = example.file;
    const picture = document.createElement('img');
    Object.assign(picture, { src: addressOf(example), alt: '', width: 96, height: 72 });
    const name = document.createElement('span');
    name.textContent = example.name;
    button.append(picture, name);
    button.addEventListener('click', () => choose(example));
    return button;
  }));
}

/** Mark the button of the example with `file`, or none. */
export function mark(place, file) {
  for (const button of place.children) button.setAttribute('aria-pressed', String(button.dataset.file === file));
}

/** The URL of an example's image. */
export const addressOf = ({ file }) => new URL(`page/examples/${file}`, document.baseURI).href;
