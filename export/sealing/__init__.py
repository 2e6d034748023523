"""The bundle folder and what is told in it: manifest, model card, a Triton repository; and its way to a hub."""
