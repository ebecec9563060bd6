"""The dashboard: pages for people in the room, on their phones and on a wall screen."""
